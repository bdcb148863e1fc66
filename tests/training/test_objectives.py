"""Laws of the bounds and of the ways to estimate ln Z, and of the training loss made of them."""

import math

import pytest
import torch
from pairs import pairwise
from torch import nn

from skevae.densities import gaussian_bernoulli
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.densities.normal import StandardNormalDensity
from skevae.likelihoods import LIKELIHOODS
from skevae.log_partition.exact import exact_log_partition
from skevae.partitions import DENSITY_PARTITIONS, PARTITIONS, resolve_partition
from skevae.partitions.chains import ChainPartition
from skevae.posteriors import POSTERIORS
from skevae.posteriors.draws import LatentDraws
from skevae.training import OBJECTIVES
from skevae.training.loss import TrainingLoss
from skevae.training.objectives import negative_bound
from skevae.utils.random import make_generator, seeded_globals
from skevae.vae import VAE

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
N_FEATURES, D = 3, 2
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)
each_posterior = pytest.mark.parametrize("posterior", POSTERIORS)

# The posteriors whose density at any z is a matrix product; a flow has to be inverted for it.
CLOSED_FORMS = ("fixed", "diagonal")

# What depends on the draws is a function of the parameters, which differences can follow; chains
# only have a gradient.
VALUED = [name for name, kind in PARTITIONS.items() if not issubclass(kind, ChainPartition)]
CHAINS = [name for name in PARTITIONS if name not in VALUED]


def stir(module, seed=0):
    source = make_generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return module


def make_density(n_hidden=4):
    density = GaussianBernoulliDensity(D, n_hidden, generator=make_generator(0)).double()
    return stir(density, seed=1)


def make_posterior(name):
    with seeded_globals(0):
        return stir(POSTERIORS[name](D).double())


def make_model(posterior="diagonal", likelihood="gaussian", density=None):
    """VAE of linear maps, all parameters stirred."""
    p = LIKELIHOODS[likelihood](N_FEATURES, 0.1)
    with seeded_globals(0):
        encoder = nn.Linear(N_FEATURES, POSTERIORS[posterior].outputs_per_latent * D)
        decoder = nn.Linear(D, p.outputs_per_feature * N_FEATURES)
    density = make_density() if density is None else density
    return VAE(encoder, decoder, make_posterior(posterior), stir(p.double()), density).double()


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=make_generator(seed), dtype=torch.float64)


def draw(model, n_draws, n_rows=5, seed=0):
    x = normals(n_rows, N_FEATURES, seed=seed)
    return model(x, normals(n_draws, n_rows, D, seed=seed + 1))


def fresh(kind, density, seed=0):
    estimate = PARTITIONS[kind](density, make_generator(seed))
    estimate.refresh()
    return estimate


def bound(draws, model, objective, partition):
    """Bound of the minibatch and its terms."""
    log_z = fresh(partition, model.density)(draws, model.posterior)
    loss, terms = negative_bound(draws, log_z, OBJECTIVES[objective])
    return -loss, terms


# --- the paper's two equations --------------------------------------------------------------------


@each_objective
@each_posterior
def test_the_papers_estimate_with_one_draw_is_pure_reconstruction(objective, posterior):
    """Eq. 3 with n = 1 is E ln p(x|z), and eq. 5 with n = 1 is ln p(x|z): the KL cancels."""
    model = make_model(posterior)
    draws = draw(model, 1)
    value, _ = bound(draws, model, objective, "posterior")
    torch.testing.assert_close(value, draws.log_likelihood.mean(), rtol=1e-12, atol=1e-12)


def test_elbo_with_the_posterior_estimate_is_equation_3():
    model = make_model()
    draws = draw(model, 6)
    ratio = torch.exp(-draws.energy - draws.log_posterior)
    by_row = (draws.log_likelihood + ratio.log()).mean(0) - ratio.mean(0).log()
    value, _ = bound(draws, model, "elbo", "posterior")
    torch.testing.assert_close(value, by_row.mean(), rtol=1e-12, atol=1e-12)


def test_iwae_with_the_posterior_estimate_is_equation_5():
    model = make_model()
    draws = draw(model, 6)
    ratio = torch.exp(-draws.energy - draws.log_posterior)
    by_row = (draws.log_likelihood.exp() * ratio).sum(0).log() - ratio.sum(0).log()
    value, _ = bound(draws, model, "iwae", "posterior")
    torch.testing.assert_close(value, by_row.mean(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("constant", [-50.0, 3.0])
@pytest.mark.parametrize("partition", [name for name in VALUED if name != "exact"])
@each_objective
def test_a_constant_in_the_energy_is_no_part_of_a_bound(objective, partition, constant):
    model = make_model()
    draws = draw(model, 6)

    lifted = draws._replace(energy=draws.energy + constant)
    estimate = PARTITIONS[partition](model.density, make_generator(0))
    values = [
        negative_bound(d, estimate(d, model.posterior), OBJECTIVES[objective])[0]
        for d in (draws, lifted)
    ]
    torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=1e-11)


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition", VALUED)
def test_iwae_is_never_below_elbo_on_the_same_draws(partition):
    model = make_model()
    for seed in range(20):
        draws = draw(model, 7, n_rows=1, seed=seed)
        elbo, iwae = (bound(draws, model, name, partition)[0] for name in ("elbo", "iwae"))
        assert iwae >= elbo - 1e-12


@pytest.mark.parametrize("n_draws", [1, 2, 8])
def test_more_draws_never_lower_the_expected_iwae_bound(n_draws):
    model = make_model()
    few, many = (draw_rows(model, n, 4000, seed=n) for n in (n_draws, 4 * n_draws))
    bounds = [
        OBJECTIVES["iwae"](d.log_likelihood - d.energy - d.log_posterior) for d in (few, many)
    ]
    error = math.sqrt(sum(b.var().item() / b.numel() for b in bounds))
    assert bounds[1].mean() >= bounds[0].mean() - 4 * error


@pytest.mark.parametrize("n_draws", [1, 8])
def test_the_number_of_draws_does_not_change_the_expected_elbo(n_draws):
    model = make_model()
    few, many = (draw_rows(model, n, 4000, seed=n) for n in (n_draws, 4 * n_draws))
    bounds = [
        OBJECTIVES["elbo"](d.log_likelihood - d.energy - d.log_posterior) for d in (few, many)
    ]
    error = math.sqrt(sum(b.var().item() / b.numel() for b in bounds))
    assert abs(bounds[1].mean() - bounds[0].mean()) <= 4 * error


def draw_rows(model, n_draws, n_repeats, seed):
    """The same row many times over, each with draws of its own."""
    x = torch.full((n_repeats, N_FEATURES), 0.7, dtype=torch.float64)
    with torch.no_grad():
        return model(x, normals(n_draws, n_repeats, D, seed=seed))


@each_objective
def test_expected_bound_with_the_exact_partition_is_below_the_log_likelihood(objective, plane_grid):
    model = make_model()
    nodes, area = plane_grid()
    x = torch.full((1, N_FEATURES), 0.7, dtype=torch.float64)
    with torch.no_grad():
        log_joint = model.likelihood.log_density(x, model.decoder(nodes)) - model.density.energy(
            nodes
        )
        truth = log_joint.logsumexp(0) - (-model.density.energy(nodes)).logsumexp(0)
        draws = draw_rows(model, 4, 4000, seed=3)
        values = OBJECTIVES[objective](draws.log_likelihood - draws.energy - draws.log_posterior)
        values -= exact_log_partition(model.density.as_energy())
    assert values.mean() <= truth + 4 * values.std() / math.sqrt(4000)


@each_objective
@pytest.mark.parametrize("partition", PARTITIONS)
def test_reversing_the_rows_changes_no_bound(objective, partition):
    model = make_model()
    draws = draw(model, 4)
    turned = LatentDraws(*(part.flip(0 if part is draws[-1] else 1) for part in draws))
    values = [bound(d, model, objective, partition)[0] for d in (draws, turned)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=1e-12)


# --- terms and their weight -----------------------------------------------------------------------


@each_objective
@pytest.mark.parametrize("partition", PARTITIONS)
def test_terms_are_the_means_of_the_draws(objective, partition):
    model = make_model()
    draws = draw(model, 4)
    value, terms = bound(draws, model, objective, partition)
    assert set(terms) == {"objective", "reconstruction", "energy", "log_partition"}
    torch.testing.assert_close(terms["objective"], value.detach())
    torch.testing.assert_close(terms["reconstruction"], draws.log_likelihood.mean().detach())
    torch.testing.assert_close(terms["energy"], draws.energy.mean().detach())
    assert all(term.shape == () and not term.requires_grad for term in terms.values())


@each_objective
@pytest.mark.parametrize("partition", PARTITIONS)
def test_objective_is_logged_at_full_weight_whatever_is_trained(objective, partition):
    model = make_model()
    draws = draw(model, 4)
    log_z = fresh(partition, model.density)(draws, model.posterior)
    reduction = OBJECTIVES[objective]
    _, warm = negative_bound(draws, log_z, reduction, kl_weight=0.3)
    full, _ = negative_bound(draws, log_z, reduction)
    torch.testing.assert_close(warm["objective"], -full.detach())


@each_objective
def test_at_weight_zero_only_the_reconstruction_is_left(objective):
    model = make_model()
    draws = draw(model, 4)
    loss, _ = negative_bound(draws, torch.tensor(7.0), OBJECTIVES[objective], kl_weight=0.0)
    expected = OBJECTIVES[objective](draws.log_likelihood).mean()
    torch.testing.assert_close(-loss, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.999])
def test_weight_multiplies_all_but_the_reconstruction_of_the_elbo(weight):
    model = make_model()
    draws = draw(model, 4)
    log_z = torch.tensor(1.7, dtype=torch.float64)
    loss, _ = negative_bound(draws, log_z, OBJECTIVES["elbo"], weight)
    rest = (-draws.energy - draws.log_posterior).mean() - log_z
    torch.testing.assert_close(-loss, draws.log_likelihood.mean() + weight * rest)


@each_objective
def test_weight_one_is_the_limit_of_weights_below(objective):
    model = make_model()
    draws = draw(model, 4)
    log_z = torch.tensor(1.7, dtype=torch.float64)
    almost, _ = negative_bound(draws, log_z, OBJECTIVES[objective], 1 - 1e-9)
    full, _ = negative_bound(draws, log_z, OBJECTIVES[objective], 1.0)
    torch.testing.assert_close(almost, full, rtol=1e-7, atol=1e-7)


@each_objective
def test_a_partition_for_each_row_is_averaged(objective):
    model = make_model()
    draws = draw(model, 4)
    by_row = torch.linspace(-1, 1, 5, dtype=torch.float64)
    loss, terms = negative_bound(draws, by_row, OBJECTIVES[objective])
    common, _ = negative_bound(draws, by_row.mean(), OBJECTIVES[objective])
    torch.testing.assert_close(loss, common, rtol=1e-12, atol=1e-12)
    assert terms["log_partition"].item() == pytest.approx(0, abs=1e-15)


# --- gradients ------------------------------------------------------------------------------------


@pairwise(
    "objective, partition, posterior, likelihood", OBJECTIVES, VALUED, POSTERIORS, LIKELIHOODS
)
def test_gradient_of_the_bound_matches_finite_differences(
    objective, partition, posterior, likelihood, assert_gradient
):
    model = make_model(posterior, likelihood)
    x, noise = normals(5, N_FEATURES), normals(3, 5, D, seed=1)
    x = x if model.likelihood.is_continuous else (x > 0).double()
    estimate = fresh(partition, model.density)

    def loss():
        draws = model(x, noise)
        log_z = estimate(draws, model.posterior)
        return negative_bound(draws, log_z, OBJECTIVES[objective], kl_weight=0.8)[0]

    assert_gradient(loss, model.parameters(), n_directions=2)


def gradients_by_part(objective, draws, model, kl_weight):
    """Value of the loss, gradient of the encoder's outputs, and gradient of decoder and prior."""
    objective = OBJECTIVES[objective]
    draws = objective.reparametrize(draws, model.posterior, kl_weight)
    loss, _ = negative_bound(draws, model.density.log_partition(), objective, kl_weight)
    others = [*model.decoder.parameters(), *model.density.parameters()]
    outputs, *others = torch.autograd.grad(
        loss, [draws.posterior_outputs, *others], retain_graph=True
    )
    return loss.detach(), outputs, torch.cat([part.flatten() for part in others])


@pytest.mark.parametrize("kl_weight", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("posterior", CLOSED_FORMS)
def test_doubly_reparametrised_gradient_is_that_of_the_bound_on_average(
    posterior, kl_weight, assert_mean
):
    """Of the encoder; the value, and the gradients of decoder and prior, are so at each draw."""
    model = make_model(posterior)
    x = normals(1, N_FEATURES).expand(4000, -1)
    draws = model(x, normals(4, len(x), D, seed=3))
    plain, twice = (
        gradients_by_part(name, draws, model, kl_weight) for name in ("iwae", "iwae-dreg")
    )
    torch.testing.assert_close(twice[0], plain[0])
    torch.testing.assert_close(twice[2], plain[2])
    assert_mean(len(x) * (twice[1] - plain[1]), torch.zeros_like(plain[1][0]))
    assert torch.equal(twice[1], plain[1]) == (kl_weight == 0.0)


@pytest.mark.parametrize("posterior", CLOSED_FORMS)
def test_doubly_reparametrised_gradient_has_no_noise_at_the_true_posterior(posterior):
    """There all weights agree wherever the draws fall; the plain gradient varies with them."""
    q = make_posterior(posterior)
    outputs = normals(5, q.outputs_per_latent * D).requires_grad_()
    z, log_q = q.draw(outputs, normals(4, 5, D, seed=1))
    joint = q.log_density(z, outputs.detach()) - 1.7
    draws = LatentDraws(joint, torch.zeros_like(joint), log_q, z, outputs)

    (plain,) = torch.autograd.grad(
        OBJECTIVES["iwae"](joint - log_q).sum(), outputs, retain_graph=True
    )
    draws = OBJECTIVES["iwae-dreg"].reparametrize(draws, q, 1.0)
    value = OBJECTIVES["iwae-dreg"](draws.log_likelihood - draws.log_posterior).sum()
    (twice,) = torch.autograd.grad(value, outputs)
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(twice, torch.zeros_like(twice))


@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name not in CLOSED_FORMS])
def test_doubly_reparametrised_gradient_says_which_posteriors_it_needs(posterior):
    with pytest.raises(ValueError, match="posterior='diagonal' or 'fixed'"):
        training_loss(make_model(posterior), objective="iwae-dreg")


@pytest.mark.parametrize("kind", sorted(PARTITIONS.keys() - DENSITY_PARTITIONS.keys()))
def test_doubly_reparametrised_gradient_needs_ln_z_from_elsewhere_than_its_draws(kind):
    model = make_model()
    with pytest.raises(ValueError, match="partition='auto'"):
        OBJECTIVES["iwae-dreg"].check(model.posterior, fresh(kind, model.density))


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


# --- the training loss ----------------------------------------------------------------------------


def training_loss(model, *, seed=0, objective="elbo", **changes):
    settings = {"n_draws": 4, "kl_warmup": 0.0, "rebinarize": False, **changes}
    partition = PARTITIONS["exact"](model.density, make_generator(0))
    return TrainingLoss(
        model, partition, OBJECTIVES[objective], generator=make_generator(seed), **settings
    )


@each_objective
def test_training_loss_is_the_bound_of_fresh_draws(objective):
    model, x = make_model(), normals(5, N_FEATURES)
    loss, terms = training_loss(model, objective=objective)(x, 0.0)
    draws = model(x, normals(4, 5, D, seed=0))
    expected, expected_terms = negative_bound(
        draws, model.density.log_partition(), OBJECTIVES[objective]
    )
    torch.testing.assert_close(loss, expected)
    assert terms == expected_terms


@pytest.mark.parametrize("kl_warmup", [0.0, 0.5])
def test_training_loss_has_the_gradient_of_its_objective(kl_warmup):
    model, x = make_model(), normals(5, N_FEATURES)
    encoder = list(model.encoder.parameters())
    gradients = {}
    for name in ("iwae", "iwae-dreg"):
        loss, _ = training_loss(model, objective=name, kl_warmup=kl_warmup)(x, 0.2)
        gradients[name] = torch.autograd.grad(loss, encoder)
    weight = 0.4 if kl_warmup else 1.0
    objective = OBJECTIVES["iwae-dreg"]
    draws = model(x, normals(4, 5, D, seed=0))
    log_z = model.density.log_partition()
    draws = objective.reparametrize(draws, model.posterior, weight)
    loss, _ = negative_bound(draws, log_z, objective, weight)
    torch.testing.assert_close(torch.autograd.grad(loss, encoder), gradients["iwae-dreg"])
    for plain, twice in zip(gradients["iwae"], gradients["iwae-dreg"], strict=True):
        assert (plain - twice).abs().max() > 1e-4


@each_objective
def test_training_loss_of_a_frozen_encoder_trains_the_rest(objective):
    model, x = make_model("fixed"), normals(5, N_FEATURES)
    model.encoder.requires_grad_(False)
    loss, _ = training_loss(model, objective=objective)(x, 0.0)
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.decoder.parameters())


def test_training_loss_draws_anew_at_each_visit():
    loss, x = training_loss(make_model()), normals(5, N_FEATURES)
    assert loss(x, 0.0)[0] != loss(x, 0.0)[0]


@pytest.mark.parametrize(
    "progress, weight", [(0.0, 0.0), (0.1, 0.25), (0.3, 0.75), (0.4, 1.0), (0.9, 1.0)]
)
def test_weight_rises_linearly_from_zero_to_one_over_the_warm_up(progress, weight):
    model, x = make_model(), normals(5, N_FEATURES)
    loss, _ = training_loss(model, kl_warmup=0.4)(x, progress)
    draws = model(x, normals(4, 5, D, seed=0))
    log_z = model.density.log_partition()
    expected, _ = negative_bound(draws, log_z, OBJECTIVES["elbo"], weight)
    torch.testing.assert_close(loss, expected)


def test_without_warm_up_the_weight_is_one_from_the_start():
    model, x = make_model(), normals(5, N_FEATURES)
    start, end = (training_loss(model)(x, progress)[0] for progress in (0.0, 1.0))
    assert start == end


def test_every_visit_draws_binary_rows_of_the_right_mean(assert_mean):
    model = make_model(likelihood="bernoulli")
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64).expand(50, 3)
    loss = training_loss(model, rebinarize=True)
    for _ in range(100):
        loss(x, 0.0)
    rows = torch.cat(seen)
    assert ((rows == 0) | (rows == 1)).all()
    assert_mean(rows, [0.0, 0.3, 1.0])


def test_rows_are_left_alone_without_rebinarisation():
    model, x, seen = make_model(), normals(5, N_FEATURES), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    training_loss(model)(x, 0.0)
    assert torch.equal(seen[0], x)


# --- the module -----------------------------------------------------------------------------------


@each_posterior
def test_shared_noise_gives_each_row_the_same_draws_as_alone(posterior):
    model, x, noise = make_model(posterior), normals(5, N_FEATURES), normals(4, 1, D)
    together, alone = model(x, noise), model(x[2:3], noise)
    for name in ("log_likelihood", "energy", "log_posterior"):
        part, truth = getattr(together, name)[:, 2:3], getattr(alone, name)
        torch.testing.assert_close(part, truth, rtol=1e-12, atol=1e-12)
