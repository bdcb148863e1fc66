"""Laws of the log-likelihood by annealed importance sampling."""

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from test_importance import D, data, log_likelihood, log_z, make_model, normals, rbm_density
from test_refinement import refined, spoilt

from skevae import EnergyVAE
from skevae.evaluation import annealed
from skevae.evaluation.annealed import Moves, Target, anneal, annealed_weights, move
from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import EncodedRows, Noise, log_weights
from skevae.posteriors import POSTERIORS

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(annealed, "N_STEPS", 10)


def chains(n, seed=0):
    return Noise(normals(n, D, seed=seed), normals(0, 1, D), None, seed + 1000)


def encoded(model, x):
    with torch.no_grad():
        return EncodedRows(x, model.encoder(x), None)


def weights(model, rows, noise, draws_at_once=1000):
    return torch.add(*annealed_weights(model, model.density.energy, rows, noise, draws_at_once))


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("n_steps", [1, 4])
def test_weights_are_unbiased(posterior, n_steps, assert_mean, monkeypatch):
    monkeypatch.setattr(annealed, "N_STEPS", n_steps)
    model, x = spoilt(make_model(posterior)), data(3)
    rows, noise = refined(model, x), chains(1000)
    ratios = weights(model, rows, noise) - log_z(model) - log_likelihood(x)
    assert_mean(ratios.exp(), torch.ones(3).double())


def test_unrefined_chains_are_unbiased(assert_mean, monkeypatch):
    monkeypatch.setattr(annealed, "N_STEPS", 10)
    model, x = make_model("fixed"), data(3)
    ratios = weights(model, encoded(model, x), chains(4000)) - log_z(model) - log_likelihood(x)
    assert_mean(ratios.exp(), torch.ones(3).double())


def test_one_step_is_importance_sampling_from_the_fitted_gaussian(monkeypatch):
    monkeypatch.setattr(annealed, "N_STEPS", 1)
    model, x = spoilt(make_model("diagonal", rbm_density())), data(5)
    rows, noise = refined(model, x), chains(20)
    expected = torch.add(*log_weights(model, rows, noise, 20))
    torch.testing.assert_close(weights(model, rows, noise), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_moves_leave_a_normal_target_unchanged(beta):
    model, x = make_model("diagonal"), data(1)
    rows = refined(model, x)
    # At the exact posterior, without the widening, all of the path is N(0, I).
    factor = rows.gaussians.factor / math.sqrt(1 + 1.2 / math.sqrt(D))
    target = Target(model, model.density.energy, rows, rows.gaussians._replace(factor=factor))
    start = normals(4000, 1, D, seed=1)
    moves, state = Moves.draw(4000, D, 2, start), target(start)
    for normal, log_uniform in zip(moves.normal[:5], moves.log_uniform[:5], strict=True):
        state = move(target, state, beta, 1.0, normal[:, None], log_uniform[:, None])
    assert (state.u != start).any(-1).double().mean() > 0.9
    for j in range(D):
        assert kstest(state.u[:, 0, j].numpy(), "norm").pvalue > 1e-3


def test_annealing_mends_a_bad_proposal():
    model, x = spoilt(make_model("fixed")), data(20)
    rows, noise = encoded(model, x), chains(20)
    plain = torch.add(
        *log_weights(model, rows, Noise(noise.refined[:0], noise.refined[:, None], None), 20)
    )
    moved = weights(model, rows, noise)
    for name, factor in (("effective_sample_size", 2), ("standard_error", 0.6)):
        before, after = (DIAGNOSTICS[name](values).median() for values in (plain, moved))
        assert (after > factor * before) if factor > 1 else (after < factor * before)


def test_pieces_and_neighbours_change_nothing(few_steps):
    model, x = spoilt(make_model("diagonal", rbm_density())), data(4)
    rows, noise = refined(model, x), chains(7)
    whole = weights(model, rows, noise)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(weights(model, rows, noise, 3), whole, **close)
    for i in range(4):
        alone = weights(model, rows.at(torch.tensor([i])), noise)
        torch.testing.assert_close(alone[:, 0], whole[:, i], **close)


def test_a_chain_from_where_there_is_nothing_weighs_nothing():
    model, x = make_model("diagonal"), data(2)
    rows = encoded(model, x)
    target = Target(model, model.density.energy, rows, annealed.standard_gaussians(x, D))
    standard = normals(3, D)
    standard[1] = 1e200
    found = anneal(target, standard, Moves.draw(3, D, 0, standard))
    assert found[1].isneginf().all() and found[[0, 2]].isfinite().all()


# --- on fitted estimators -------------------------------------------------------------------------

X = load_iris().data


@pytest.fixture(scope="module", params=[None, GaussianMixture(2, random_state=0)])
def fitted(request):
    return EnergyVAE(
        2, hidden_layer_sizes=16, max_iter=5, ex_post=request.param, random_state=0
    ).fit(X)


def test_it_agrees_with_importance_sampling(fitted):
    found = fitted.log_likelihood(X[::10], method="annealed", n_draws=40)
    many = fitted.log_likelihood(X[::10], n_draws=5000)
    error = np.hypot(found.standard_error, many.standard_error)
    assert (np.abs(found.log_likelihood - many.log_likelihood) < 5 * error + 0.01).all()
    assert np.median(found.effective_sample_size) > 30


def test_its_scores_are_deterministic_and_independent_of_neighbours(fitted, few_steps):
    whole = fitted.log_likelihood(X[:6], method="annealed", n_draws=3)
    again = fitted.log_likelihood(X[:6], method="annealed", n_draws=3)
    assert_array_equal(again.log_likelihood, whole.log_likelihood)
    alone = fitted.log_likelihood(X[5:6], method="annealed", n_draws=3)
    assert_allclose(alone.log_likelihood, whole.log_likelihood[5:], rtol=1e-7)
    other = fitted.log_likelihood(X[:6], method="annealed", n_draws=3, random_state=1)
    assert (other.log_likelihood != whole.log_likelihood).all()


def test_holes_and_conditions(fitted, few_steps):
    rows = X[:5].copy()
    rows[:4, :2] = np.nan
    rows[0] = np.nan
    options = {"method": "annealed", "n_draws": 20}
    scores = fitted.log_likelihood(rows, **options).log_likelihood
    assert scores[0] == 0
    assert_allclose(scores[1:], fitted.score_samples(rows)[1:], atol=0.5)
    given = fitted.log_likelihood(X[4:5], given=[0, 1], **options).log_likelihood
    part = np.where(np.arange(4) < 2, X[4:5], np.nan)
    expected = scores[4] - fitted.log_likelihood(part, **options).log_likelihood
    assert_allclose(given, expected, rtol=1e-6)
