"""Laws of the Gaussians that are fitted to the rows' posteriors."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from test_importance import D, data, log_likelihood, log_z, make_model, normals, rbm_density

from skevae.evaluation import refinement
from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import (
    Defence,
    EncodedRows,
    Noise,
    importance_estimate,
    log_weights,
    make_defence,
)
from skevae.evaluation.refinement import (
    MAX_LATENTS,
    MIN_DRAWS,
    RowGaussians,
    log_joint_and_slope,
    make_directions,
    matched,
    refine,
)
from skevae.posteriors import POSTERIORS
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
each_posterior = pytest.mark.parametrize("posterior", POSTERIORS)


def spoilt(model):
    """The same model, whose encoder is off by a shift and proposes too narrow or wide a law."""
    with torch.no_grad():
        model.encoder.bias += 0.7
    return model


def refined(model, x, draws_at_once=100, seed=0):
    with torch.no_grad():
        outputs = model.encoder(x)
    directions = make_directions(D, seed)
    gaussians = refine(model, model.density.energy, x, outputs, directions, draws_at_once)
    return EncodedRows(x, outputs, gaussians)


@pytest.mark.parametrize("n_latent", [1, 2, 5, 16, 40])
def test_directions_are_even(n_latent):
    directions = make_directions(n_latent, 0)
    assert directions.shape == (refinement.MAX_STEPS, max(MIN_DRAWS, 2 * n_latent), n_latent)
    half = directions.shape[1] // 2
    assert torch.equal(directions[:, :half], -directions[:, half:])
    first = directions[:, :n_latent]
    lengths = first.square().sum(-1)
    products = first @ first.mT
    torch.testing.assert_close(products, torch.diag_embed(lengths), atol=1e-9, rtol=0)
    assert not torch.equal(directions, make_directions(n_latent, 1))


def test_many_latents_are_not_refined():
    assert len(make_directions(MAX_LATENTS, 0)) > 0
    assert len(make_directions(MAX_LATENTS + 1, 0)) == 0


@pytest.mark.parametrize("posterior", ["fixed", "diagonal"])
def test_the_fit_of_a_gaussian_posterior_is_that_posterior(posterior, monkeypatch):
    """Of the spoilt encoder too: in the space of the latents it is N(V A'(x - c) / s^2, V)."""
    monkeypatch.setattr(refinement, "WIDENING", 0.0)
    monkeypatch.setattr(refinement, "MIN_STEPS", 12)
    x = data(20)
    exact, model = make_model("diagonal"), spoilt(make_model(posterior))
    truth = exact.encoder(x)
    rows = refined(model, x)
    z, _ = model.posterior.draw(rows.outputs, rows.gaussians.mean[None])
    scale = model.posterior.variance(rows.outputs).sqrt()
    covariance = rows.gaussians.factor @ rows.gaussians.factor.mT
    covariance = scale[:, :, None] * covariance * scale[:, None, :]
    wanted = torch.diag_embed(exact.posterior.variance(truth))
    spread = exact.posterior.variance(truth).sqrt()
    assert ((z[0] - exact.posterior.mean(truth)).abs() < 0.05 * spread).all()
    assert ((covariance - wanted).abs() < 0.1 * spread[:, :, None] * spread[:, None, :]).all()


def test_directions_are_standard_normal():
    draws = torch.cat([make_directions(3, seed)[:, :16].flatten(0, 1) for seed in range(200)])
    for column in draws.mT:
        assert kstest(column.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("n_draws", [3, 40])
def test_a_step_solves_its_quadratic_equation(n_draws):
    """S U S + S = V, with U and V as published."""
    n, d, rate = 4, 3, 1.7
    factor = torch.linalg.cholesky(
        torch.eye(d).double() + 0.3 * normals(n, d, d) @ normals(n, d, d).mT
    )
    present = RowGaussians(normals(n, d, seed=1), factor)
    noise, slopes = normals(n_draws, n, d, seed=2), normals(n_draws, n, d, seed=3)
    found = matched(present, noise, slopes, rate)
    for i in range(n):
        z, g = noise[:, i].numpy(), slopes[:, i].numpy()
        mu, sigma = present.mean[i].numpy(), (factor[i] @ factor[i].mT).numpy()
        share = rate / (1 + rate)
        U = rate * np.cov(g.T, bias=True) + share * np.outer(g.mean(0), g.mean(0))
        off = mu - z.mean(0)
        V = sigma + rate * np.cov(z.T, bias=True) + share * np.outer(off, off)
        S = (found.factor[i] @ found.factor[i].mT).numpy()
        np.testing.assert_allclose(S @ U @ S + S, V, atol=1e-10)
        mean = mu / (1 + rate) + share * (S @ g.mean(0) + z.mean(0))
        np.testing.assert_allclose(found.mean[i].numpy(), mean, atol=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_a_row_with_bad_gradients_stays_as_it_is(bad):
    present = RowGaussians(normals(3, 2), torch.eye(2).double().expand(3, 2, 2))
    noise, slopes = normals(8, 3, 2, seed=1), normals(8, 3, 2, seed=2)
    good = matched(present, noise, slopes, 1.0)
    slopes[5, 1, 0] = bad
    found = matched(present, noise, slopes, 1.0)
    assert torch.equal(found.mean[1], present.mean[1])
    assert torch.equal(found.factor[1], present.factor[1])
    assert torch.equal(found.mean[[0, 2]], good.mean[[0, 2]])


def test_the_divergence_of_gaussians_is_torchs():
    pair = [
        RowGaussians(
            normals(6, D, seed=seed),
            torch.linalg.cholesky(
                normals(6, D, 2 * D, seed=seed) @ normals(6, D, 2 * D, seed=seed).mT
            ),
        )
        for seed in (1, 2)
    ]
    ones, others = (
        torch.distributions.MultivariateNormal(at.mean, scale_tril=at.factor) for at in pair
    )
    expected = torch.distributions.kl_divergence(ones, others)
    torch.testing.assert_close(refinement.divergence(*pair), expected)


def count_rows(monkeypatch):
    """Number of rows in each step of the fits that follow."""
    counts = []

    def counted(model, energy, x, *args):
        counts.append(len(x))
        return log_joint_and_slope(model, energy, x, *args)

    monkeypatch.setattr(refinement, "log_joint_and_slope", counted)
    return counts


def test_rows_that_hardly_move_are_not_fitted_further(monkeypatch):
    counts = count_rows(monkeypatch)
    model = make_model("diagonal")
    refined(model, data(64))
    easy = counts.copy()
    counts.clear()
    monkeypatch.setattr(refinement, "MIN_DIVERGENCE", 0.0)
    refined(model, data(64))
    assert counts == [64] * refinement.MAX_STEPS
    # Only n, n / 2, n / 4, ... rows: oneDNN caches memory for each number.
    assert easy[: refinement.MIN_STEPS] == [64] * refinement.MIN_STEPS
    assert sum(easy) < sum(counts) / 2
    assert all(64 % n == 0 for n in easy) and easy == sorted(easy, reverse=True)


def test_a_step_that_fails_does_not_end_the_fit(monkeypatch):
    counts = count_rows(monkeypatch)
    x = data(4)
    model = make_model("diagonal")
    log_density = model.likelihood.log_density

    def failing(*args):
        lost = len(counts) in (refinement.MIN_STEPS, refinement.MIN_STEPS + 1)
        return log_density(*args) * (math.nan if lost else 1.0)

    monkeypatch.setattr(model.likelihood, "log_density", failing)
    refined(model, x)
    assert counts[: refinement.MIN_STEPS + 2] == [4] * (refinement.MIN_STEPS + 2)


@pytest.mark.parametrize(
    ("n_left", "n", "size"), [(1, 1, 1), (3, 100, 3), (4, 100, 6), (51, 100, 100)]
)
def test_rows_are_padded_to_few_numbers(n_left, n, size):
    rows = torch.arange(n_left) + 7
    made = refinement.padded(rows, n)
    assert torch.equal(made[:n_left], rows) and (made[n_left:] == 7).all()
    assert len(made) == size


def test_gaussians_draw_from_their_density(assert_mean):
    factor = torch.linalg.cholesky(torch.tensor([[[2.0, 0.9], [0.9, 1.0]]]).double())
    gaussians = RowGaussians(normals(1, 2), factor)
    standard = normals(4000, 2, seed=1)
    draws = gaussians.locate(standard)
    each = gaussians.locate_each(standard[:, None])
    torch.testing.assert_close(draws, each)
    law = torch.distributions.MultivariateNormal(gaussians.mean[0], scale_tril=factor[0])
    torch.testing.assert_close(gaussians.log_density(draws)[:, 0], law.log_prob(draws[:, 0]))
    assert_mean(draws[:, 0], gaussians.mean[0])


# --- scores from the mixture of three laws --------------------------------------------------------


def three_laws(model, n_refined, n_own, n_defence, seed=0):
    z = model.density.sample(n_defence, make_generator(seed))
    defence = make_defence(model, z, log_z(model)) if n_defence else None
    return Noise(normals(n_refined, D, seed=seed), normals(n_own, 1, D, seed=seed + 1), defence)


@each_posterior
def test_weights_of_all_three_laws_are_unbiased(posterior, assert_mean):
    model, x = spoilt(make_model(posterior)), data(3)
    rows = refined(model, x)
    ratios = []
    for seed in range(100):
        pair = log_weights(model, rows, three_laws(model, 4, 2, 2, seed=7 * seed), 3)
        ratios.append((importance_estimate(*pair, log_z(model)) - log_likelihood(x)).exp())
    assert_mean(torch.stack(ratios), torch.ones(3).double())


@each_posterior
def test_refined_draws_carry_the_estimate(posterior):
    model, x = spoilt(make_model(posterior)), data(20)
    rows = refined(model, x)
    size = DIAGNOSTICS["effective_sample_size"]
    own = size(torch.add(*log_weights(model, rows, three_laws(model, 0, 400, 0), 400)))
    mixed = size(torch.add(*log_weights(model, rows, three_laws(model, 400, 0, 0), 400)))
    assert (mixed > 0.4 * 400).all()
    assert mixed.mean() > own.mean()


@each_posterior
def test_refinement_does_not_depend_on_pieces_or_neighbours(posterior):
    model, x = spoilt(make_model(posterior, rbm_density())), data(7)
    whole = refined(model, x).gaussians
    for other in (
        refined(model, x, draws_at_once=5).gaussians,
        RowGaussians(
            *map(torch.cat, zip(*(refined(model, r[None]).gaussians for r in x), strict=True))
        ),
    ):
        torch.testing.assert_close(other.mean, whole.mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(other.factor, whole.factor, rtol=1e-9, atol=1e-9)


def test_no_weight_exceeds_its_bound_by_the_defence():
    model, x = spoilt(make_model("fixed")), data(5)
    noise = three_laws(model, 80, 10, 10)
    assert isinstance(noise.defence, Defence) and len(noise) == 100
    likelihoods, ratios = log_weights(model, refined(model, x), noise, 100)
    # p(z) / q(z) is at most ten where a tenth of the draws come from p itself.
    assert (ratios - log_z(model) <= math.log(10) + 1e-9).all()
    assert not likelihoods.requires_grad
