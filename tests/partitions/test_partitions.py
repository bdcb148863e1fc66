"""Laws of the ways in which training estimates ln Z, and which of them is chosen."""

import math

import pytest
import torch
from bound_models import (
    CHAINS,
    CLOSED_FORMS,
    N_FEATURES,
    D,
    draw,
    each_posterior,
    fresh,
    make_density,
    make_model,
    make_posterior,
    normals,
)

from skevae import GaussianBernoulliRBMPrior
from skevae.densities import gaussian_bernoulli
from skevae.densities.normal import StandardNormalDensity
from skevae.log_partition.exact import exact_log_partition
from skevae.partitions import DENSITY_PARTITIONS, PARTITIONS, resolve_partition
from skevae.partitions.chains import ContrastivePartition
from skevae.posteriors import POSTERIORS
from skevae.posteriors.draws import LatentDraws
from skevae.training import OBJECTIVES
from skevae.training.loss import TrainingLoss
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


# --- estimates of ln Z ----------------------------------------------------------------------------


def true_log_partition(density, mixture):
    return mixture(density.as_energy())[1].logsumexp(0).item()


def test_exact_is_the_sum_over_all_hidden_rows(mixture):
    model = make_model()
    value = fresh("exact", model.density)(draw(model, 2), model.posterior)
    truth = true_log_partition(model.density, mixture)
    assert value.item() == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("kind", CHAINS)
def test_chains_report_the_reference_of_their_last_refresh(kind, mixture):
    model = make_model()
    estimate = fresh(kind, model.density)
    before = true_log_partition(model.density, mixture)
    with torch.no_grad():
        model.density.hidden_bias += 1.0
    draws = draw(model, 2)
    assert estimate(draws, model.posterior).item() == pytest.approx(before, rel=1e-12)
    estimate.refresh()  # too early for another annealing run
    assert estimate(draws, model.posterior).item() == pytest.approx(before, rel=1e-12)
    for _ in range(3):
        estimate(draws, model.posterior)
    estimate.refresh()
    after = true_log_partition(model.density, mixture)
    assert estimate(draws, model.posterior).item() == pytest.approx(after, rel=1e-12) != before


@pytest.mark.parametrize("kind", CHAINS)
def test_a_value_worked_out_elsewhere_becomes_the_reference(kind):
    model = make_model()
    estimate = fresh(kind, model.density)
    estimate.note(1.25)
    estimate.refresh()
    assert estimate(draw(model, 2), model.posterior).item() == pytest.approx(1.25, rel=1e-12)


def covering_draws(density, posterior, n_draws, n_rows, seed=0):
    """Draws of posteriors laid out over the whole of the density."""
    means = 3 * normals(n_rows, D, seed=99)
    width = posterior.outputs_per_latent - 1
    outputs = torch.cat([means, *[torch.ones_like(means)] * width], dim=1)
    z, log_q = posterior.draw(outputs, normals(n_draws, n_rows, D, seed=seed))
    with torch.no_grad():
        return LatentDraws(torch.zeros_like(log_q), density.energy(z), log_q, z, outputs)


@each_posterior
def test_aggregate_is_unbiased_for_z_where_the_posteriors_cover_it(posterior, mixture, assert_mean):
    density, q = make_density(), make_posterior(posterior)
    estimate = PARTITIONS["aggregate"](density, make_generator(0))
    n_seeds = 200 if posterior in CLOSED_FORMS else 30
    values = [
        estimate(covering_draws(density, q, 20, 30, seed=seed), q).item() for seed in range(n_seeds)
    ]
    truth = true_log_partition(density, mixture)
    assert_mean(torch.tensor(values).sub(truth).exp(), 1.0)


@pytest.mark.parametrize("posterior", CLOSED_FORMS)
def test_aggregate_comes_close_to_exact_with_many_draws(posterior, mixture):
    density, q = make_density(), make_posterior(posterior)
    estimate = PARTITIONS["aggregate"](density, make_generator(0))
    values = torch.tensor(
        [estimate(covering_draws(density, q, 100, 50, seed=seed), q).item() for seed in range(20)]
    )
    truth = true_log_partition(density, mixture)
    error = values.std().item()  # of a single estimate; its bias is of the order of its square
    assert error < 0.05
    assert abs(values.mean().item() - truth) <= 5.2 * error / math.sqrt(20) + error**2


def test_aggregate_of_one_row_and_one_draw_is_the_posterior_estimate():
    model = make_model()
    draws = draw(model, 1, n_rows=1)
    pooled = fresh("aggregate", model.density)(draws, model.posterior)
    own = fresh("posterior", model.density)(draws, model.posterior)
    torch.testing.assert_close(pooled, own[0], rtol=1e-11, atol=1e-11)


def narrow_density():
    """Conditionals narrower than N(m, I), so that weights against it are bounded."""
    density = make_density()
    with torch.no_grad():
        density.log_variance.fill_(math.log(0.6))
        density.weight *= 0.5  # no mode so far out that draws miss it as a rule
    return density


def own_draws(density, n_draws, n_rows, seed):
    q = POSTERIORS["fixed"](D)
    outputs = torch.full((n_rows, D), 0.8, dtype=torch.float64)
    z, log_q = q.draw(outputs, normals(n_draws, n_rows, D, seed=seed))
    with torch.no_grad():
        return LatentDraws(torch.zeros_like(log_q), density.energy(z), log_q, z, outputs), q


@pytest.mark.parametrize("n_draws", [1, 4, 16])
def test_the_papers_estimate_is_unbiased_for_z(n_draws, mixture, assert_mean):
    density = narrow_density()
    values = fresh("posterior", density)(*own_draws(density, n_draws, 4000, seed=n_draws))
    assert values.shape == (4000,)
    assert_mean((values - true_log_partition(density, mixture)).exp(), 1.0)


@pytest.mark.parametrize("n_draws", [1, 4, 16])
def test_the_papers_estimate_of_ln_z_is_biased_low(n_draws, mixture):
    density = narrow_density()
    values = fresh("posterior", density)(*own_draws(density, n_draws, 4000, seed=n_draws))
    error = values.std().item() / math.sqrt(4000)
    assert values.mean() < true_log_partition(density, mixture) - 4 * error


def test_the_papers_bias_shrinks_with_more_draws():
    density = narrow_density()
    means = [
        fresh("posterior", density)(*own_draws(density, n, 4000, seed=n)).mean() for n in (1, 4, 16)
    ]
    assert means == sorted(means)


@pytest.mark.parametrize("kind", DENSITY_PARTITIONS)
def test_value_of_a_density_partition_does_not_depend_on_the_draws(kind):
    model = make_model()
    one, other = (
        fresh(kind, model.density)(draw(model, 2, seed=seed), model.posterior) for seed in (0, 7)
    )
    assert one.shape == () and torch.equal(one, other)


@pytest.mark.parametrize("kind", DENSITY_PARTITIONS)
def test_a_density_partition_serves_a_prior_that_learns_nothing(kind):
    model = make_model(density=StandardNormalDensity(D))
    value = fresh(kind, model.density)(draw(model, 2), model.posterior)
    assert value.item() == pytest.approx(math.log(2 * math.pi), rel=1e-7)


# --- which estimate, and what it carries on -------------------------------------------------------


def test_exact_is_refused_where_it_is_out_of_reach(monkeypatch):
    monkeypatch.setattr(gaussian_bernoulli, "EXACT_EVALUATION_UNITS", 3)
    with pytest.raises(ValueError, match="partition='exact'.*4 hidden units.*'persistent'"):
        PARTITIONS["exact"](make_density(4), make_generator(0))


@pytest.mark.parametrize("kind", PARTITIONS)
def test_resolution_takes_the_first_that_is_not_auto(kind):
    density = make_density()
    assert resolve_partition([kind], density) == kind
    assert resolve_partition(["auto", kind], density) == kind
    assert resolve_partition([kind, "posterior"], density) == kind


@pytest.mark.parametrize("limit, expected", [(4, "exact"), (3, "persistent")])
def test_auto_is_exact_where_a_step_can_afford_it(monkeypatch, limit, expected):
    monkeypatch.setattr(gaussian_bernoulli, "EXACT_TRAINING_UNITS", limit)
    density = make_density(4)
    assert resolve_partition(["auto", "auto"], density) == expected
    assert resolve_partition([], density) == expected


def test_persistent_chains_are_as_many_as_the_density_wants():
    density = make_density()
    density.n_chains = 17
    estimate = fresh("persistent", density)
    estimate.evaluate(torch.zeros(3, D).double())
    assert estimate.state()["chains"].shape == (17, D)


@pytest.mark.parametrize("kind", PARTITIONS)
def test_an_estimate_resumed_from_a_state_is_in_that_state(kind):
    model = make_model()
    estimate, other = fresh(kind, model.density), fresh(kind, model.density, seed=1)
    estimate(draw(model, 2), model.posterior)
    other.resume(estimate.state())
    state, expected = other.state(), estimate.state()
    torch.testing.assert_close(
        state.pop("chains", None), expected.pop("chains", None), rtol=0, atol=0
    )
    assert state == expected


def test_resumed_chains_go_on_from_where_the_others_stood():
    density = make_density()
    estimate = fresh("persistent", density)
    estimate.evaluate(torch.zeros(3, D).double())
    state = estimate.state()
    chains = state["chains"].clone()
    other = fresh("persistent", density, seed=5)
    other.resume(state)
    other.evaluate(torch.zeros(3, D).double())
    expected = density.transition(chains, fresh("persistent", density, seed=5).generator)
    assert torch.equal(other.state()["chains"], expected)


def test_refresh_takes_the_base_of_annealing_from_the_chains():
    density = make_density()
    estimate = fresh("persistent", density)
    estimate.evaluate(torch.zeros(3, D).double())
    estimate.refresh()
    state = estimate.state()["chains"]
    torch.testing.assert_close(density.base_mean, state.mean(0))
    # A little is added, so that chains that agree still leave a proper base.
    widened = density.base_variance - state.var(0, correction=0)
    assert (widened > 0).all() and (widened < 0.01).all()


# --- gradients of chains --------------------------------------------------------------------------


def flat_gradient(value, density):
    gradients = torch.autograd.grad(value, list(density.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("kind", CHAINS)
def test_chain_gradient_is_the_exact_one_on_average_where_chains_start_right(kind, assert_mean):
    """Data of the model's own law, fresh persistent chains, or noise that is soon forgotten."""
    density = make_density(3)
    with torch.no_grad():
        density.weight *= 0.3  # so weak that ten sweeps from noise are as good as infinitely many
    truth = flat_gradient(exact_log_partition(density.as_energy()), density)
    density.n_chains = 100
    repeats = []
    for seed in range(300):
        data = density.sample(100, make_generator(1000 + seed))
        repeats.append(flat_gradient(fresh(kind, density, seed).evaluate(data), density))
    assert_mean(torch.stack(repeats), truth)


def test_persistent_gradient_stays_the_exact_one_as_chains_go_on():
    density = make_density(3)
    truth = flat_gradient(exact_log_partition(density.as_energy()), density)
    density.n_chains = 2000
    estimate, far = fresh("persistent", density), torch.full((5, D), 50.0).double()
    # Where the data lie is nothing to chains that persist.
    runs = torch.stack([flat_gradient(estimate.evaluate(far), density) for _ in range(400)])
    # Means over blocks long beside the chains' memory are as good as independent.
    blocks = runs.reshape(20, 20, -1).mean(1)
    error = blocks.std(0) / math.sqrt(20)
    # Student's t with 19 degrees of freedom: 5.2 errors are what 4 are to a normal.
    assert ((blocks.mean(0) - truth).abs() <= 5.2 * error).all()


def test_contrastive_chains_start_at_the_data():
    density = make_density(3)
    data = density.sample(6, make_generator(0))
    estimate = fresh("contrastive", density, seed=2)
    value = estimate.evaluate(data)
    moved = density.transition(data, fresh("contrastive", density, seed=2).generator)
    expected = -density.energy(moved).mean()
    torch.testing.assert_close(flat_gradient(value, density), flat_gradient(expected, density))


def test_chains_from_noise_do_not_look_at_the_data():
    density = make_density(3)
    near, far = torch.zeros(6, D).double(), torch.full((6, D), 50.0).double()
    gradients = [
        flat_gradient(fresh("contrastive-from-noise", density, seed=2).evaluate(x), density)
        for x in (near, far)
    ]
    assert torch.equal(*gradients)


def test_chains_from_noise_start_where_the_density_says(monkeypatch):
    density, asked = make_density(3), []
    noise = density.noise
    monkeypatch.setattr(density, "noise", lambda n, source: asked.append(n) or noise(n, source))
    estimate = fresh("contrastive-from-noise", density)
    for n_rows in (6, 2):
        estimate.evaluate(torch.zeros(n_rows, D).double())
    assert asked == [6, 2]


@pytest.mark.parametrize("kind", CHAINS)
def test_chains_learn_nothing_about_the_encoder(kind):
    """The gradient of ln Z is the density's alone, though chains may start at its draws."""
    model = make_model()
    draws = draw(model, 4)
    value = fresh(kind, model.density)(draws, model.posterior)
    gradients = torch.autograd.grad(value, list(model.encoder.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)


class Starts(ContrastivePartition):
    """Notes where chains start."""

    def evaluate(self, z):
        self.seen = z
        return super().evaluate(z)


def test_contrastive_chains_of_a_prior_start_at_rows_resampled_by_weight(monkeypatch):
    made = []

    class Recorded(Starts):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setitem(PARTITIONS, "contrastive", Recorded)
    prior = GaussianBernoulliRBMPrior(3, partition="contrastive", max_iter=1, batch_size=80)
    prior.set_params(standardize=False, early_stopping=False, random_state=0)
    X = torch.cat([normals(40, 2), 100 + normals(40, 2, seed=1)]).numpy()
    prior.fit(X, sample_weight=[1e-9] * 40 + [1] * 40)
    assert (made[0].seen > 50).all()


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_contrastive_chains_of_a_model_start_at_draws_resampled_by_weight(objective):
    model = make_model("diagonal")
    partition = Starts(model.density, make_generator(0))
    loss = TrainingLoss(
        model,
        partition,
        OBJECTIVES[objective],
        n_draws=4,
        kl_warmup=0.0,
        weighted=True,
        generator=make_generator(1),
    )
    x = normals(6, N_FEATURES)
    weight = torch.tensor([0.0, 0.0, 6.0, 0.0, 0.0, 0.0])
    loss(torch.cat([x, weight[:, None].to(x)], 1), 1.0)
    starts = partition.seen.unflatten(0, (4, 6))
    if objective == "elbo":
        # All chains start at the four draws of the third row.
        torch.testing.assert_close(starts, starts[:, :1].expand_as(starts))
    assert len(starts.flatten(0, 1).unique(dim=0)) <= 4
