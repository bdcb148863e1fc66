"""Scores are right where the answer is known, and err low where it is not.

Law 3: a linear decoder has a closed form. Law 5: what the paper reports with one draw is the
reconstruction. Law 6, after training: more draws never lower the expected score.
"""

import copy
from itertools import cycle, product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from pairs import quick_and_slow
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from score_models import (
    FLOWS,
    affine,
    all_configurations,
    decoder_scale,
    nothing_is_exact,
    prior_of,
    quick,
    rows,
)
from sklearn.decomposition import FactorAnalysis
from sklearn.preprocessing import StandardScaler

from skevae import GaussianBernoulliRBMPrior
from skevae.densities import gaussian_bernoulli
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.utils.random import draw_seed, quasi_normal

# --- law 3: a linear decoder has a closed form ----------------------------------------------------


def linear_decoder(model):
    weight, bias = (p.detach().double().numpy() for p in model.module_.decoder.parameters())
    return weight, bias, decoder_scale(model)


def closed_form(model, X_train, X):
    """ln p(x) of a linear decoder with a GRBM prior: a mixture of 2^H Gaussians."""
    weight, bias, scale = linear_decoder(model)
    prior = model.prior_
    W, b = prior.components_.T, prior.intercept_hidden_
    mu, variance = prior.intercept_visible_, prior.scale_**2
    H = all_configurations(W.shape[1])
    coupling = W.T @ (W / variance[:, None])
    log_weight = H @ (b + W.T @ (mu / variance)) + 0.5 * ((H @ coupling) * H).sum(axis=1)
    log_weight -= logsumexp(log_weight)
    covariance = weight * variance @ weight.T + np.diag(scale**2)
    scaler = StandardScaler().fit(X_train)
    Z = scaler.transform(X)
    parts = [
        log_p + multivariate_normal((mu + W @ h) @ weight.T + bias, covariance).logpdf(Z)
        for log_p, h in zip(log_weight, H, strict=True)
    ]
    return logsumexp(parts, axis=0) - np.log(scaler.scale_).sum()


def factor_analysis(model, X_train, X):
    """ln p(x) of a linear decoder with a normal prior, by scikit-learn's FactorAnalysis."""
    weight, bias, scale = linear_decoder(model)
    scaler = StandardScaler().fit(X_train)
    formula = FactorAnalysis(n_components=weight.shape[1])
    formula.components_, formula.mean_, formula.noise_variance_ = weight.T, bias, scale**2
    formula.n_features_in_ = X.shape[1]
    return formula.score_samples(scaler.transform(X)) - np.log(scaler.scale_).sum()


ORACLES = {"grbm": closed_form, "normal": factor_analysis}


SLOW = [("normal", "fixed")]
LINEAR = [
    pytest.param(
        (prior, posterior),
        id=f"{prior}-{posterior}",
        # Every prior and every kind of posterior; one flow is enough to wait for.
        marks=pytest.mark.slow if posterior in FLOWS[1:] or (prior, posterior) in SLOW else (),
    )
    for prior, posterior in product(ORACLES, POSTERIORS)
    if posterior not in FLOWS or prior == "grbm"
]


@pytest.fixture(scope="module", params=LINEAR)
def linear(request):
    """Fitted linear model, rows it has not seen, and their log-likelihood in closed form."""
    prior, posterior = request.param
    X, unseen = rows(), rows(60, seed=1)
    model = quick(
        prior=GaussianBernoulliRBMPrior(4, initial_scale=1.0) if prior == "grbm" else prior,
        posterior=posterior,
        network=affine,
        max_iter=20,
    ).fit(X)
    return model, unseen, ORACLES[prior](model, X, unseen)


def test_linear_decoder_matches_the_closed_form(linear):
    model, X, exact = linear
    result = model.log_likelihood(X, n_draws=4000, random_state=0)
    reliable = result.pareto_k < 0.5
    assert reliable.mean() > 0.5
    error = np.abs(result.log_likelihood - exact)
    # float32 parameters, of which the oracle takes the prior's after another rounding: 1e-5.
    assert (error < 5 * result.standard_error + 1e-5)[reliable].all()
    assert abs(model.score(X) - exact.mean()) < 0.1


def test_score_errs_low_and_its_weights_are_unbiased(linear):
    model, X, exact = linear
    n_seeds = 200
    seeds = range(n_seeds)
    few = np.array(
        [model.log_likelihood(X, n_draws=2, random_state=s).log_likelihood for s in seeds]
    )
    gap = (few - exact).mean(axis=1)
    assert gap.mean() < -3 * gap.std() / np.sqrt(n_seeds)
    ratio = np.exp(few - exact)
    one = ratio.mean(axis=0)
    error = ratio.std(axis=0) / np.sqrt(n_seeds)
    light = error < 0.1  # rows whose weights have a mean that 400 draws can see
    assert light.mean() > 0.5
    assert (np.abs(one - 1) < 5 * error)[light].all()


def test_scores_err_low_whatever_error_is_asked_for(linear):
    """Draws that decided by themselves when they are enough would end on luck."""
    model, X, exact = linear
    X, exact = X[:30], exact[:30]
    # Sixteen times as many draws have a quarter of the error.
    tol = 4 * np.median(model.log_likelihood(X, n_draws=1000).standard_error)
    n_seeds = 20
    found = [model.log_likelihood(X, n_draws=1000, tol=tol, random_state=s) for s in range(n_seeds)]
    n_draws = np.array([result.n_draws for result in found])
    assert 0.1 < (n_draws == 62).mean() < 0.9
    gap = np.array([(result.log_likelihood - exact).mean() for result in found])
    assert gap.mean() < 3 * gap.std() / np.sqrt(n_seeds)
    error = np.array([result.standard_error for result in found])
    assert np.sqrt(np.square(error[n_draws < 1000]).mean()) < 1.5 * tol


def test_more_draws_err_less(linear):
    model, X, exact = linear
    means, errors = [], []
    for n_draws, n_seeds in ((1, 150), (4, 150), (64, 50)):
        gaps = [
            (model.log_likelihood(X, n_draws=n_draws, random_state=s).log_likelihood - exact).mean()
            for s in range(n_seeds)
        ]
        means.append(np.mean(gaps))
        errors.append(np.std(gaps) / np.sqrt(n_seeds))
    assert (np.array(means) < 3 * np.array(errors)).all()
    assert means[0] < means[1] - 2 * np.hypot(errors[0], errors[1])
    assert means[1] < means[2] + 3 * np.hypot(errors[1], errors[2])
    assert abs(means[2]) < 0.05


def test_diagnostics_agree_with_each_other(linear):
    model, X, _ = linear
    n = 100
    far = X.mean(axis=0) + np.array([[1e2], [1e4], [1e6], [1e9]]) * X.std(axis=0)
    untold = 0
    for method in ("importance", "self_normalized"):
        for dtype, tolerance in ((np.float64, 1e-6), (np.float32, 1e-2)):
            both = np.concatenate([X, far]).astype(dtype)
            result = model.log_likelihood(both, method=method, n_draws=n)
            assert np.isfinite(result.log_likelihood).all()
            size = result.effective_sample_size
            assert (size >= 1 - tolerance).all()
            assert (size <= n * (1 + tolerance)).all()
            # sd(w) / (mean(w) sqrt(n)) and (sum w)^2 / sum w^2 say the same thing.
            expected = np.sqrt(np.maximum(1 / size - 1 / n, 0) * n / (n - 1))
            # Where fewer than two draws carry the estimate, their spread says nothing.
            told = size >= 2
            untold += (~told).sum()
            assert told.any()
            assert_allclose(result.standard_error[told], expected[told], atol=tolerance)
            assert np.isinf(result.standard_error[~told]).all()
    # The encoder's own posteriors miss the far rows.
    assert untold > 0


def test_one_draw_has_no_error_to_show(linear):
    model, X, _ = linear
    result = model.log_likelihood(X, n_draws=1)
    assert np.isinf(result.standard_error).all()
    assert_allclose(result.effective_sample_size, 1)
    assert np.isnan(result.pareto_k).all()


# --- law 5: what the paper reports with one draw is the reconstruction ----------------------------


@quick_and_slow(
    "prior, posterior",
    [
        *zip(PRIORS, cycle(POSTERIORS), strict=False),
        *zip(cycle(["grbm", "normal"]), POSTERIORS, strict=False),
    ],
    product(PRIORS, POSTERIORS),
)
def test_self_normalized_with_one_draw_is_the_reconstruction(prior, posterior):
    X = rows()
    model = quick(prior=prior_of(prior), posterior=posterior, max_iter=3).fit(X)
    reported = model.log_likelihood(X, method="self_normalized", n_draws=1, random_state=7)
    # The same draw, and ln N(x; decoder(z), scale) on the scale of X.
    noise = quasi_normal(1, 2, draw_seed(7))[:, None]
    module = copy.deepcopy(model.module_).double()
    spread = StandardScaler().fit(X)
    with torch.no_grad():
        outputs = module.encoder(torch.from_numpy(spread.transform(X)))
        z = module.posterior.draw(outputs, noise)[0][0].numpy()
    scale = decoder_scale(model) * spread.scale_
    expected = norm(model.inverse_transform(z), scale).logpdf(X).sum(axis=1)
    assert_allclose(reported.log_likelihood, expected, rtol=1e-6)


def test_trained_as_in_the_paper_it_reports_more_than_the_truth():
    X, unseen = rows(), rows(60, seed=1)
    model = quick(
        prior=prior_of("grbm", 4), partition="posterior", network=affine, max_iter=40
    ).fit(X)
    exact = closed_form(model, X, unseen).mean()
    reported = model.log_likelihood(unseen, method="self_normalized", n_draws=4)
    assert reported.log_likelihood.mean() > exact + 0.5
    assert model.score(unseen) < exact + 0.02


# --- ln Z that is not exact -----------------------------------------------------------------------


def test_score_uses_the_upper_end_of_the_interval(monkeypatch):
    X = rows()
    # Trained without ln Z, so that the two models are one but for how ln Z is known.
    # No draws of the prior either: only what is exact can be sampled exactly.
    monkeypatch.setattr(gaussian_bernoulli, "EXACT_SAMPLING_UNITS", 3)
    model = quick(prior=prior_of("grbm"), partition="posterior")
    exact = model.fit(X).score_samples(X)
    log_z = model.prior_.log_partition_
    assert model.prior_.log_partition_interval_ == (log_z, log_z)
    nothing_is_exact(monkeypatch)
    other = quick(prior=prior_of("grbm"), partition="posterior").fit(X)
    low, high = other.prior_.log_partition_interval_
    # Each end carries two standard errors; the truth may lie one or two beyond.
    assert low - (high - low) / 2 < log_z < high + (high - low) / 2
    assert 0 < high - low < 0.1
    assert other.prior_.log_partition_ == high
    assert_allclose(other.score_samples(X), exact + log_z - high, atol=1e-9)
    Z = other.transform(X)
    assert_allclose(other.prior_.score_samples(Z), -other.prior_.energy(Z) - high, rtol=1e-12)
