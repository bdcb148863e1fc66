"""Laws of the bounds and of their gradients."""

import math

import pytest
import torch
from bound_models import (
    CLOSED_FORMS,
    N_FEATURES,
    VALUED,
    D,
    bound,
    draw,
    each_objective,
    each_posterior,
    fresh,
    make_model,
    make_posterior,
    normals,
)
from pairs import pairwise

from skevae.likelihoods import LIKELIHOODS
from skevae.log_partition.exact import exact_log_partition
from skevae.partitions import DENSITY_PARTITIONS, PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.posteriors.draws import LatentDraws
from skevae.training import OBJECTIVES
from skevae.training.objectives import negative_bound
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


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
    x = x if model.likelihood.standardizes else (x > 0).double()
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


@pytest.mark.parametrize("kind", sorted(PARTITIONS.keys() - DENSITY_PARTITIONS.keys()))
def test_doubly_reparametrised_gradient_needs_ln_z_from_elsewhere_than_its_draws(kind):
    model = make_model()
    with pytest.raises(ValueError, match="partition='auto'"):
        OBJECTIVES["iwae-dreg"].check(model.posterior, fresh(kind, model.density))
