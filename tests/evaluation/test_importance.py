"""Laws of the importance-sampled log-likelihood, whose answer linear models know."""

import math

import numpy as np
import pytest
import torch
from building import make_likelihood
from torch import nn
from torch.distributions import MultivariateNormal

from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.densities.normal import StandardNormalDensity
from skevae.evaluation.aggregate import aggregated_moments
from skevae.evaluation.diagnostics import DIAGNOSTICS, pareto_k
from skevae.evaluation.importance import (
    EncodedRows,
    Noise,
    held_out_bound,
    importance_estimate,
    log_weights,
    self_normalized_estimate,
)
from skevae.evaluation.methods import METHODS
from skevae.evaluation.stages import by_number_of_draws, draws_needed
from skevae.networks.scales import UNIT_SHIFT
from skevae.posteriors import POSTERIORS
from skevae.posteriors.normal import MIN_SCALE
from skevae.utils.random import lent_globals, make_generator
from skevae.vae import VAE

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
N_FEATURES, D, NOISE, MIN_NOISE = 4, 2, 0.7, 0.1
each_method = pytest.mark.parametrize("method", METHODS)
each_posterior = pytest.mark.parametrize("posterior", POSTERIORS)


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=make_generator(seed), dtype=dtype)


def raw(value):
    """What a network has to return for a positive number."""
    return math.log(math.expm1(value)) - UNIT_SHIFT


# --- linear-Gaussian models, whose log-likelihood is known ----------------------------------------


def loadings():
    """A with orthogonal columns of different lengths, and the offset c: x = A z + c + noise."""
    columns, _ = torch.linalg.qr(normals(N_FEATURES, D))
    return columns * torch.tensor([1.5, 0.4], dtype=torch.float64), normals(N_FEATURES, seed=1)


def affine(weight, bias):
    with lent_globals(make_generator(0)):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def stir(module):
    """Parameters of a posterior's own, at random."""
    source = make_generator(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return module


def make_model(posterior="diagonal", density=None):
    """Factor analysis as a VAE. With the normal prior the "diagonal" posterior is the exact one.

    Given x the latents are N(V A'(x - c) / s^2, V) with V = (I + A'A / s^2)^-1, diagonal here.
    """
    A, c = loadings()
    likelihood = make_likelihood("gaussian", N_FEATURES, MIN_NOISE).double()
    with torch.no_grad():
        likelihood.raw_scale.fill_(raw(NOISE - MIN_NOISE))
    variance = 1 / (1 + (A**2).sum(0) / NOISE**2)
    to_mean = variance[:, None] * A.T / NOISE**2
    weight, bias = [to_mean], [-to_mean @ c]
    kind = POSTERIORS[posterior]
    if posterior == "diagonal":
        weight.append(torch.zeros_like(to_mean))
        scales = variance.sqrt().tolist()
        bias.append(torch.tensor([raw(s - MIN_SCALE) for s in scales], dtype=torch.float64))
    else:  # the mean is right, what else there is takes its neutral value
        weight += [torch.zeros_like(to_mean)] * (kind.outputs_per_latent - 1)
        bias += [torch.zeros_like(bias[0])] * (kind.outputs_per_latent - 1)
    encoder = affine(torch.cat(weight), torch.cat(bias))
    density = StandardNormalDensity(D) if density is None else density
    with lent_globals(make_generator(0)):
        q = kind(D).double()
    return VAE(encoder, affine(A, c), stir(q), likelihood, density).double()


def log_likelihood(x):
    """Ln N(x; c, A A' + s^2 I), the factor analyser's."""
    A, c = loadings()
    return MultivariateNormal(c, A @ A.T + NOISE**2 * torch.eye(N_FEATURES).double()).log_prob(x)


def data(n=6, seed=2):
    A, c = loadings()
    noise = NOISE * normals(n, N_FEATURES, seed=seed + 1)
    return normals(n, D, seed=seed) @ A.T + c + noise


def rbm_density():
    # Modes that lie no further apart than the posteriors of the normal prior are wide: farther
    # ones would be missed so seldom that no standard error could tell.
    density = GaussianBernoulliDensity(D, 5, generator=make_generator(0), initial_scale=0.5)
    return density.double()


def log_z(model):
    return model.density.log_partition_interval(make_generator(0)).high


def weights(model, x, noise, draws_at_once):
    """Weights of draws from the encoder's posteriors alone."""
    rows = EncodedRows(x, model.encoder(x), None)
    return log_weights(model, rows, Noise(noise.new_empty((0, D)), noise, None), draws_at_once)


def tables(model, x, n_draws, seed=0):
    """Weights with noise of each row's own: rows are then independent repeats."""
    return weights(model, x, normals(n_draws, len(x), D, seed=seed), n_draws)


@pytest.mark.parametrize("n_draws", [1, 2, 50])
def test_with_the_exact_posterior_every_draw_gives_the_closed_form(n_draws):
    model, x = make_model(), data()
    estimate = importance_estimate(*tables(model, x, n_draws), log_z(model))
    torch.testing.assert_close(estimate, log_likelihood(x), rtol=0, atol=1e-10)


@each_posterior
def test_importance_estimate_is_unbiased_for_the_closed_form(posterior, assert_mean):
    model, x = make_model(posterior), data(1).expand(20_000, -1)
    estimate = importance_estimate(*tables(model, x, 2), log_z(model))
    assert_mean((estimate - log_likelihood(x)).exp(), 1.0)


@each_posterior
def test_importance_estimate_is_unbiased_for_a_mixture_of_gaussians(
    posterior, mixture, assert_mean
):
    """With an RBM prior p(x) is a mixture: N(x; A E[z|h] + c, A Sigma A' + s^2 I) for each h."""
    model, x = make_model(posterior, rbm_density()), data(1)
    A, c = loadings()
    energy = model.density.as_energy()
    _, weights, means = mixture(energy)
    covariance = A @ torch.diag(energy.variance) @ A.T + NOISE**2 * torch.eye(N_FEATURES).double()
    parts = MultivariateNormal(means @ A.T + c, covariance).log_prob(x)
    truth = (weights.log_softmax(0) + parts).logsumexp(0).detach()
    # q is about as wide as the true posterior, and 10 draws tame what tails there are.
    estimate = importance_estimate(*tables(model, x.expand(20_000, -1), 10), log_z(model))
    assert_mean((estimate - truth).exp(), 1.0)


@pytest.mark.parametrize("n_draws", [1, 4, 32])
def test_importance_estimate_errs_low(n_draws):
    model, x = make_model("fixed"), data(1).expand(4000, -1)
    estimate = importance_estimate(*tables(model, x, n_draws), log_z(model))
    error = estimate.std().item() / math.sqrt(4000)
    assert estimate.mean() <= log_likelihood(x)[0] + 4 * error


@pytest.mark.parametrize("n_draws", [1, 4, 32])
def test_self_normalized_estimate_errs_high_even_with_the_exact_posterior(n_draws):
    model, x = make_model(), data(1).expand(4000, -1)
    estimate = self_normalized_estimate(*tables(model, x, n_draws), log_z(model))
    error = estimate.std().item() / math.sqrt(4000)
    assert estimate.mean() > log_likelihood(x)[0] + 4 * error


def test_self_normalized_estimate_with_one_draw_is_the_reconstruction():
    model, x = make_model(density=rbm_density()), data()
    noise = normals(1, len(x), D)
    estimate = self_normalized_estimate(*weights(model, x, noise, 1), log_z(model))
    z = model.posterior.draw(model.encoder(x), noise)[0][0]
    expected = model.likelihood.log_density(x, model.decoder(z))
    torch.testing.assert_close(estimate, expected.detach(), rtol=1e-12, atol=1e-12)


def test_methods_differ_by_ln_z_against_what_the_draws_see_of_it():
    model, x = make_model(density=rbm_density()), data()
    likelihoods, ratios = tables(model, x, 9)
    gap = self_normalized_estimate(likelihoods, ratios, log_z(model)) - importance_estimate(
        likelihoods, ratios, log_z(model)
    )
    own = torch.log(torch.exp(ratios).mean(0))
    torch.testing.assert_close(gap, log_z(model) - own, rtol=1e-11, atol=1e-11)


# --- every method ---------------------------------------------------------------------------------


@each_method
def test_the_zero_of_the_energy_is_no_part_of_a_score(method):
    likelihoods, ratios = normals(30, 5), normals(30, 5, seed=1)
    score = METHODS[method].estimate(likelihoods, ratios, 2.0)
    lifted = METHODS[method].estimate(likelihoods, ratios - 7.0, 2.0 - 7.0)
    torch.testing.assert_close(lifted, score, rtol=1e-12, atol=1e-12)


@each_method
def test_a_jacobian_shifts_a_score_by_itself(method):
    likelihoods, ratios = normals(30, 5), normals(30, 5, seed=1)
    score = METHODS[method].estimate(likelihoods, ratios, 2.0)
    scaled = METHODS[method].estimate(likelihoods - 3.0, ratios, 2.0)
    torch.testing.assert_close(scaled, score - 3.0, rtol=1e-12, atol=1e-12)


@each_method
def test_order_of_the_draws_changes_no_score(method):
    likelihoods, ratios = normals(30, 5), normals(30, 5, seed=1)
    score = METHODS[method].estimate(likelihoods, ratios, 2.0)
    turned = METHODS[method].estimate(likelihoods.flip(0), ratios.flip(0), 2.0)
    torch.testing.assert_close(turned, score, rtol=1e-12, atol=1e-12)


@each_method
def test_weights_beyond_the_range_of_exponentials_are_scored(method):
    likelihoods, ratios = normals(30, 5) - 5000.0, normals(30, 5, seed=1) + 3000.0
    assert torch.isfinite(METHODS[method].estimate(likelihoods, ratios, 3000.0)).all()


# --- weights in pieces ----------------------------------------------------------------------------


@each_posterior
@pytest.mark.parametrize("draws_at_once", [1, 4, 12, 13, 100])
def test_weights_do_not_depend_on_how_draws_are_cut_up(posterior, draws_at_once):
    model, x, noise = make_model(posterior, rbm_density()), data(), normals(13, 1, D)
    whole, parts = weights(model, x, noise, 13), weights(model, x, noise, draws_at_once)
    for part, truth in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, truth, rtol=1e-12, atol=1e-12)


@each_posterior
def test_weights_of_a_row_do_not_depend_on_the_rows_beside_it(posterior):
    model, x, noise = make_model(posterior, rbm_density()), data(), normals(13, 1, D)
    together = weights(model, x, noise, 13)
    alone = [weights(model, row[None], noise, 13) for row in x]
    for i, truth in enumerate(together):
        part = torch.cat([pair[i] for pair in alone], dim=1)
        torch.testing.assert_close(part, truth, rtol=1e-12, atol=1e-12)


def test_weights_keep_no_graph():
    model, x, noise = make_model(density=rbm_density()), data(), normals(13, 1, D)
    likelihoods, ratios = weights(model, x, noise, 5)
    assert likelihoods.shape == ratios.shape == (13, len(x))
    assert not likelihoods.requires_grad and not ratios.requires_grad


# --- diagnostics of a score -----------------------------------------------------------------------


def test_diagnostics_are_of_the_weights_of_the_likelihood():
    likelihoods, ratios = normals(400, 3), normals(400, 3, seed=1)
    w = np.exp((likelihoods + ratios).numpy())
    found = {name: of(likelihoods + ratios) for name, of in DIAGNOSTICS.items()}
    assert set(found) == {"standard_error", "effective_sample_size", "pareto_k"}
    expected = w.std(0, ddof=1) / w.mean(0) / np.sqrt(400)
    np.testing.assert_allclose(found["standard_error"], expected, rtol=1e-12)
    np.testing.assert_allclose(
        found["effective_sample_size"], w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-12
    )
    torch.testing.assert_close(found["pareto_k"], pareto_k(likelihoods + ratios))


def test_standard_error_is_the_spread_of_repeated_scores():
    model, x = make_model("fixed"), data(1).expand(2000, -1)
    likelihoods, ratios = tables(model, x, 500)
    scores = importance_estimate(likelihoods, ratios, log_z(model))
    predicted = DIAGNOSTICS["standard_error"](likelihoods + ratios).square().mean().sqrt()
    relative = (predicted / scores.std()).item()
    # 2000 repeats show a spread to 1 / sqrt(4000); the delta method leaves out O(1 / n_draws).
    weight_variance = 500 * predicted.item() ** 2
    assert relative == pytest.approx(1, abs=4 / math.sqrt(4000) + 4 * weight_variance / 500)


# --- as many draws as the error asks for ----------------------------------------------------------


def test_rows_are_given_the_fewest_draws_that_bring_their_error_below():
    error = torch.tensor([0.0, 0.1, 0.1001, 0.2, 0.2001, 9.0, math.inf, math.nan])
    found = draws_needed(error, 100, [100, 400, 1600], 0.1)
    assert found.tolist() == [100, 100, 400, 400, 1600, 1600, 1600, 1600]


def test_rows_keep_their_places_whatever_number_of_draws_they_are_given():
    given = torch.tensor([20, 10, 20, 40, 10])
    asked = []

    def evaluate(rows, n):
        asked.append((n, rows.tolist()))
        return {"value": rows * n}

    found = by_number_of_draws(evaluate, given)
    assert asked == [(10, [1, 4]), (20, [0, 2]), (40, [3])]
    assert found["value"].tolist() == [0, 10, 40, 120, 40]


# --- what training is watched by ------------------------------------------------------------------


def watch(model, x, **changes):
    defaults = {"n_draws": 4, "rows_at_once": 50, "draws_at_once": 3}
    settings_ = {**defaults, "seed": 0, "log_partition": log_z(model), **changes}
    return held_out_bound(model, x, **settings_)


@pytest.mark.parametrize("n_draws, rows_at_once", [(1, 50), (5, 7), (3, 1)])
def test_held_out_bound_with_the_exact_posterior_is_the_mean_closed_form(n_draws, rows_at_once):
    model, x = make_model(), data(50)
    value = watch(model, x, n_draws=n_draws, rows_at_once=rows_at_once)
    assert value == pytest.approx(log_likelihood(x).mean().item(), abs=1e-10)


@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name != "diagonal"])
def test_held_out_bound_errs_low(posterior):
    model, x = make_model(posterior), data(2000)
    value = watch(model, x)
    scores = importance_estimate(*tables(model, x, 4), log_z(model)) - log_likelihood(x)
    error = scores.std().item() / math.sqrt(2000)
    assert value <= log_likelihood(x).mean().item() + 4 * error


def test_held_out_bound_uses_the_right_ln_z(mixture):
    model, x = make_model(density=rbm_density()), data(30)
    truth = mixture(model.density.as_energy())[1].logsumexp(0).item()
    # The noise that is first drawn from the seed.
    likelihoods, ratios = tables(model, x, 4, seed=0)
    expected = (likelihoods + ratios).exp().mean(0).log().mean().item() - truth
    assert watch(model, x) == pytest.approx(expected, rel=1e-12)


def test_held_out_bound_is_determined_by_its_seed():
    model, x = make_model("fixed"), data(30)
    assert watch(model, x, seed=1) == watch(model, x, seed=1) != watch(model, x, seed=2)


def test_held_out_rows_that_are_probabilities_are_made_binary():
    with lent_globals(make_generator(0)):
        encoder, decoder = nn.Linear(3, 2 * D), nn.Linear(D, 3)
    likelihood = make_likelihood("bernoulli", 3, 0.1)
    parts = encoder, decoder, POSTERIORS["diagonal"](D), likelihood, StandardNormalDensity(D)
    model, seen = VAE(*parts).double(), []
    model.encoder.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    x = torch.full((40, 3), 0.5, dtype=torch.float64)
    first, again = (watch(model, x) for _ in range(2))
    rows = torch.cat(seen)
    assert ((rows == 0) | (rows == 1)).all() and 0.25 < rows.mean() < 0.75
    assert first == again


# --- moments of the aggregated posterior ----------------------------------------------------------


@each_posterior
@pytest.mark.parametrize("rows_at_once", [1, 7, 40, 1000])
def test_aggregated_moments_are_those_of_the_mixture_of_posteriors(posterior, rows_at_once):
    model, x = make_model(posterior), data(40)
    with torch.no_grad():
        outputs = model.encoder(x)
        means = model.posterior.mean(outputs).numpy()
        variances = model.posterior.variance(outputs).numpy()
    mean, variance = aggregated_moments(model, x, rows_at_once)
    np.testing.assert_allclose(mean, means.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(variance, variances.mean(0) + means.var(0), rtol=1e-11)


@each_posterior
def test_aggregated_moments_are_those_of_draws(posterior, assert_mean):
    model, x = make_model(posterior), data(40)
    mean, variance = aggregated_moments(model, x, 40)
    outputs = model.encoder(x).detach()
    z = model.posterior.draw(outputs, normals(500, 40, D))[0].detach()
    # The mean over all 40 rows is one repeat.
    assert_mean(z.mean(1), mean)
    assert_mean((z - mean).square().mean(1), variance)


@each_posterior
def test_aggregated_moments_of_far_narrow_posteriors_are_a_proper_base(posterior):
    """In float32: a mean square less a squared mean has no digits left here."""
    model, x = make_model(posterior), data(40)
    with torch.no_grad():
        model.encoder.weight.mul_(1e-4)
        model.encoder.bias[:D] = 100.0
        model.encoder.bias[D:] = raw(0.003)
    expected = aggregated_moments(model, x, 40)[1]
    mean, variance = aggregated_moments(model.float(), x.float(), 40)
    # Means are stored to float32 rounding, of 100: that much their spread is uncertain.
    rounding = 4 * torch.finfo(torch.float32).eps * 100
    tolerance = rounding * expected.sqrt() + rounding**2 + 1e-5 * expected
    assert (variance > 0).all()
    assert ((variance.double() - expected).abs() <= tolerance).all()
