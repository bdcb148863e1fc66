"""A score is a function of its row: of no other row, no chunk and no earlier call."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from score_models import all_configurations, prior_of, quick, rows
from sklearn import config_context
from sklearn.mixture import GaussianMixture

from skevae.networks import MLP, NETWORKS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS

X_REAL = rows()
X_UNIT = expit(X_REAL - 3)


@pytest.fixture(scope="module", params=["gaussian-rowwise", "bernoulli"])
def scored(request):
    X = X_UNIT if request.param == "bernoulli" else X_REAL
    model = quick(likelihood=request.param, prior=prior_of("grbm"), n_score_draws=100).fit(X)
    return model, X, model.score_samples(X)


def test_score_is_deterministic(scored):
    model, X, score = scored
    assert_array_equal(model.score_samples(X), score)
    assert model.score(X) == pytest.approx(score.mean(), rel=1e-12)


def test_score_is_what_log_likelihood_returns(scored):
    model, X, score = scored
    assert_allclose(model.log_likelihood(X).log_likelihood, score, rtol=1e-12)
    assert_allclose(model.log_likelihood(X, n_draws=100).log_likelihood, score, rtol=1e-12)
    seeded = [model.log_likelihood(X, random_state=5).log_likelihood for _ in range(2)]
    assert_array_equal(*seeded)
    assert np.abs(seeded[0] - score).max() > 1e-6


def test_score_does_not_depend_on_the_other_rows(scored):
    model, X, score = scored
    order = np.random.RandomState(0).permutation(len(X))
    assert_allclose(model.score_samples(X[order]), score[order], rtol=1e-10)
    assert_allclose(model.score_samples(X[:7]), score[:7], rtol=1e-10)
    alone = np.concatenate([model.score_samples(X[i : i + 1]) for i in range(8)])
    assert_allclose(alone, score[:8], rtol=1e-10)
    with config_context(working_memory=0.01):
        assert_allclose(model.score_samples(X[:40]), score[:40], rtol=1e-10)
        assert_allclose(model.log_likelihood(X[:40]).log_likelihood, score[:40], rtol=1e-10)
    twice = model.score_samples(np.concatenate([X, X]))
    assert_allclose(twice, np.tile(score, 2), rtol=1e-10)


def test_working_memory_changes_no_call(scored):
    model, X, _ = scored
    calls = {
        "transform": lambda: model.transform(X),
        "reconstruct": lambda: model.reconstruct(X),
        "sample": lambda: model.inverse_transform(model.prior_.sample(50, random_state=0)),
        "prior": lambda: model.prior_.score_samples(model.transform(X)),
    }
    for name, call in calls.items():
        expected = call()
        with config_context(working_memory=0.001):
            assert_allclose(call(), expected, rtol=1e-10, atol=1e-12, err_msg=name)


PARTS = {
    **{f"posterior {name}": {"posterior": name} for name in POSTERIORS},
    **{f"prior {name}": {"prior": prior_of(name)} for name in PRIORS},
    **{f"network {name}": {"network": name} for name in NETWORKS},
    "weight-normalised": {"network": MLP(weight_norm=True)},
    "gaussian-mixture": {"likelihood": "gaussian-mixture"},
    "bernoulli": {"likelihood": "bernoulli"},
    "ex-post": {"ex_post": GaussianMixture(2)},
}


@pytest.mark.parametrize("part", PARTS)
def test_number_of_threads_changes_no_score(part, two_threads):
    params = PARTS[part]
    X = (X_UNIT if params.get("likelihood") == "bernoulli" else X_REAL)[:40]
    torch.set_num_threads(1)
    model = quick(**{"prior": "normal", "max_iter": 2, "n_score_draws": 100, **params}).fit(X)
    score, features = model.score_samples(X), model.score_features(X)
    torch.set_num_threads(2)
    for _ in range(3):
        assert_allclose(model.score_samples(X), score, rtol=1e-8)
    assert_allclose(model.score_features(X), features, rtol=1e-8, atol=1e-8)


def test_probabilities_are_scored_as_binary_rows():
    # Rows drawn by a fixed function of the row: each score is that of some binary row.
    model = quick(likelihood="bernoulli", prior="normal", n_score_draws=200).fit(X_UNIT)
    every_row = all_configurations(X_UNIT.shape[1])
    possible = model.score_samples(every_row)
    nearest = np.abs(model.score_samples(X_UNIT)[:, None] - possible).min(axis=1)
    assert_allclose(nearest, 0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_binary_rows_of_equal_probabilities_are_independent_draws(seed):
    # All 32 rows of 5 features turn up, as often as independent features would make them.
    model = quick(likelihood="bernoulli", prior="normal", max_iter=1, random_state=seed)
    model.set_params(n_score_draws=50).fit(X_UNIT)
    every_row = all_configurations(5)
    possible = model.score_samples(every_row)
    grey = 0.3 + 1e-3 * np.random.RandomState(seed).normal(size=(4000, 5))
    scores = model.score_samples(grey)
    drawn = np.abs(scores[:, None] - possible).argmin(axis=1)
    expected = 0.3 ** every_row.sum(axis=1) * 0.7 ** (5 - every_row.sum(axis=1))
    counts = np.bincount(drawn, minlength=32)
    assert (counts > 0).all()
    error = np.sqrt(expected * (1 - expected) * len(grey))
    assert (np.abs(counts - expected * len(grey)) < 5 * error).all()
    mean = expected @ possible
    spread = np.sqrt(expected @ (possible - mean) ** 2)
    assert abs(scores.mean() - mean) < 5 * spread / np.sqrt(len(grey))
