"""GaussianBernoulliRBMPrior as an estimator: its attributes mean what the formulas say."""

import itertools
import warnings
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pairs import quick_and_slow
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.densities import gaussian_bernoulli
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.partitions import DENSITY_PARTITIONS
from skevae.priors.fit import PriorFit
from skevae.samplers import SAMPLERS, MetropolisLangevin

X_IRIS = load_iris().data
# Columns of digits that are neither constant nor nearly so.
X_DIGITS = load_digits().data[:, [10, 18, 20, 27, 34, 36, 43, 53]]


def rbm(n_components=4, **params):
    return GaussianBernoulliRBMPrior(
        n_components, **{"batch_size": 64, "random_state": 0, **params}
    )


def nothing_is_exact(monkeypatch):
    """Make four hidden units too many, so that annealing and chains take over."""
    for name in ("EVALUATION", "SAMPLING", "WATCHING", "TRAINING"):
        monkeypatch.setattr(gaussian_bernoulli, f"EXACT_{name}_UNITS", 3)


@pytest.fixture(scope="module", params=[True, False], ids=["standardized", "raw"])
def fitted(request):
    return rbm(standardize=request.param, max_iter=40, learning_rate=0.03, initial_scale=0.5).fit(
        X_IRIS
    )


def mixture_of(model):
    """Weights, means and variances of the 2^H Gaussians, from the fitted attributes alone."""
    W, b = model.components_.T, model.intercept_hidden_
    mu, variance = model.intercept_visible_, model.scale_**2
    H = np.array(list(itertools.product([0.0, 1.0], repeat=len(b))))
    means = mu + H @ W.T
    # The integral of exp(-E(x, h)) over x, the square completed for each h.
    log_weights = H @ b + ((means**2 - mu**2) / (2 * variance)).sum(axis=1)
    log_weights += 0.5 * np.log(2 * np.pi * variance).sum()
    return Bunch(H=H, log_weights=log_weights, means=means, variance=variance)


# --- attributes -----------------------------------------------------------------------------------


def test_shapes(fitted):
    assert fitted.components_.shape == (4, 4)
    assert fitted.intercept_hidden_.shape == (4,)
    assert fitted.intercept_visible_.shape == (4,)
    assert fitted.scale_.shape == (4,)
    assert (fitted.scale_ > 0).all()
    assert fitted.n_features_in_ == 4
    assert set(fitted.history_) == {"objective", "energy", "log_partition", "validation"}
    assert {len(values) for values in fitted.history_.values()} == {fitted.n_iter_}


def test_energy_is_the_formula_in_the_attributes(fitted):
    # Folding the standardisation into W, b, mu and sigma leaves no constant behind.
    variance = fitted.scale_**2
    logits = fitted.intercept_hidden_ + (X_IRIS / variance) @ fitted.components_.T
    quadratic = ((X_IRIS - fitted.intercept_visible_) ** 2 / variance).sum(axis=1)
    expected = 0.5 * quadratic - np.logaddexp(0, logits).sum(axis=1)
    assert_allclose(fitted.energy(X_IRIS), expected, rtol=1e-9)


def test_transform_is_the_conditional_probability(fitted):
    logits = fitted.intercept_hidden_ + (X_IRIS / fitted.scale_**2) @ fitted.components_.T
    assert_allclose(fitted.transform(X_IRIS), expit(logits), rtol=1e-9)


def test_transform_is_that_of_the_mixture(fitted):
    # Bayes' rule over all 2^H Gaussians, which knows nothing of conditionals.
    parts = mixture_of(fitted)
    log_joint = np.column_stack(
        [
            log_w + multivariate_normal(mean, np.diag(parts.variance)).logpdf(X_IRIS)
            for log_w, mean in zip(parts.log_weights, parts.means, strict=True)
        ]
    )
    posterior = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    assert_allclose(fitted.transform(X_IRIS), posterior @ parts.H, rtol=1e-7, atol=1e-9)
    log_density = logsumexp(log_joint, axis=1) - logsumexp(parts.log_weights)
    assert_allclose(fitted.score_samples(X_IRIS), log_density, rtol=1e-8)


def test_log_partition_is_the_sum_over_hidden_units(fitted):
    low, high = fitted.log_partition_interval_
    assert low == high == fitted.log_partition_
    assert_allclose(fitted.log_partition_, logsumexp(mixture_of(fitted).log_weights), rtol=1e-9)


def test_standardisation_changes_units_only():
    # Standardised inside or by hand: one and the same density.
    mean, std = X_IRIS.mean(axis=0), X_IRIS.std(axis=0)
    inside = rbm(max_iter=20).fit(X_IRIS)
    by_hand = rbm(max_iter=20, standardize=False).fit((X_IRIS - mean) / std)
    Z = (X_IRIS - mean) / std
    shift = -np.log(std).sum()
    assert_allclose(inside.score_samples(X_IRIS), by_hand.score_samples(Z) + shift, atol=1e-3)
    assert_allclose(inside.components_, by_hand.components_ * std, atol=1e-3)
    assert_allclose(inside.scale_, by_hand.scale_ * std, rtol=1e-3)
    assert_allclose(inside.intercept_visible_, by_hand.intercept_visible_ * std + mean, atol=1e-3)


def test_scale_is_not_learned_on_request():
    assert_allclose(rbm(max_iter=3, learn_scale=False).fit(X_IRIS).scale_, X_IRIS.std(axis=0))
    raw = rbm(max_iter=3, learn_scale=False, standardize=False).fit(X_IRIS)
    assert_array_equal(raw.scale_, np.ones(4))


# --- the density ----------------------------------------------------------------------------------


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("partition", DENSITY_PARTITIONS)
def test_density_integrates_to_one(partition, standardize):
    X = X_IRIS[:, 2:]
    model = rbm(partition=partition, standardize=standardize, max_iter=15, learning_rate=0.03)
    model.fit(X)
    parts = mixture_of(model)
    low = parts.means.min(axis=0) - 10 * model.scale_
    high = parts.means.max(axis=0) + 10 * model.scale_
    # Half a sigma between nodes: the error of the sum is below exp(-2 pi^2 4) of the whole.
    counts = np.ceil(2 * (high - low) / model.scale_).astype(int)
    axes = [np.linspace(*ends) for ends in zip(low, high, counts, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert cell * np.exp(model.score_samples(grid)).sum() == pytest.approx(1, abs=1e-9)


@quick_and_slow(
    "data, partition",
    [("iris", "exact"), ("digits", "persistent")],
    product(["iris", "digits"], ["exact", "persistent"]),
)
def test_fit_improves_the_likelihood_of_unseen_rows(data, partition):
    X = {"iris": X_IRIS, "digits": X_DIGITS}[data]
    train, test = train_test_split(X, test_size=0.3, random_state=0)
    model = rbm(6, partition=partition, max_iter=40, learning_rate=0.03).fit(train)
    start = rbm(6, partition=partition, max_iter=1, learning_rate=1e-12).fit(train).score(test)
    gaussian = GaussianMixture(1, covariance_type="diag", reg_covar=1e-3).fit(train).score(test)
    assert model.score(test) > start + 0.5
    assert model.score(test) > gaussian + 0.3
    assert model.history_["validation"].max() > model.history_["validation"][0]


def test_exact_training_reaches_what_a_mixture_reaches():
    # One hidden unit and learned scales: two Gaussians of one diagonal covariance.
    X = X_IRIS[:, :2]
    model = rbm(1, max_iter=400, early_stopping=False, learning_rate=0.05, batch_size=150).fit(X)
    rows = np.concatenate([X, X])
    assert model.score(X) > GaussianMixture(1, covariance_type="diag").fit(rows).score(X) - 1e-3


def test_score_by_the_upper_end_where_ln_z_is_annealed(monkeypatch):
    exact = rbm(max_iter=8, learning_rate=0.03).fit(X_IRIS)
    nothing_is_exact(monkeypatch)
    model = clone(exact).fit(X_IRIS)
    low, high = model.log_partition_interval_
    # Each end carries two standard errors; the truth may lie one or two beyond.
    truth = logsumexp(mixture_of(model).log_weights)
    assert low - (high - low) / 2 < truth < high + (high - low) / 2
    assert 0 < high - low < 0.1
    assert_allclose(model.score_samples(X_IRIS), -model.energy(X_IRIS) - high, rtol=1e-12)


def test_a_wide_interval_is_warned_about(monkeypatch):
    nothing_is_exact(monkeypatch)
    # Deep separate modes, which annealing cannot leave.
    model = rbm(12, initial_scale=30.0, max_iter=1, learning_rate=1e-9, early_stopping=False)
    with pytest.warns(ConvergenceWarning, match=r"ln Z is only known to lie in"):
        model.fit(X_IRIS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score(X_IRIS)  # said once, at fit


def test_more_effort_narrows_the_interval_and_lifts_scores(monkeypatch):
    nothing_is_exact(monkeypatch)
    unknown = LogPartitionInterval(-np.inf, np.inf)
    monkeypatch.setattr(gaussian_bernoulli, "certified_interval", lambda *args, **options: unknown)
    monkeypatch.setattr(gaussian_bernoulli, "N_ANNEALING_STEPS", 100)
    nested = rbm(12, initial_scale=0.8)
    vae = EnergyVAE(4, prior=nested, hidden_layer_sizes=8, max_iter=2, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        vae.fit(X_IRIS)
        before, scores = vae.prior_.normalize(), vae.score_samples(X_IRIS[:5])
        after = vae.prior_.normalize(effort=8)
    assert after.high - after.low < before.high - before.low
    assert after == vae.prior_.log_partition_interval_ == vae.prior_.normalize()
    assert_allclose(vae.score_samples(X_IRIS[:5]) - scores, before.high - after.high, atol=1e-6)
    with pytest.raises(ValueError, match="effort"):
        vae.prior_.normalize(effort=0)


# --- samples and chains ---------------------------------------------------------------------------


def moments_of(model):
    parts = mixture_of(model)
    p = np.exp(parts.log_weights - logsumexp(parts.log_weights))
    mean = p @ parts.means
    second = p @ (parts.means**2 + parts.variance)
    return mean, second


def assert_moments(model, X, n_errors=5.0):
    mean, second = moments_of(model)
    error = np.sqrt(second - mean**2) / np.sqrt(len(X))
    assert (np.abs(X.mean(axis=0) - mean) < n_errors * error).all()
    spread = (X**2).std(axis=0) / np.sqrt(len(X))
    assert (np.abs((X**2).mean(axis=0) - second) < n_errors * spread).all()


def test_samples_have_the_exact_moments(fitted):
    assert_moments(fitted, fitted.sample(20_000, random_state=1))


def test_gibbs_leaves_the_moments_alone(fitted):
    X = fitted.sample(20_000, random_state=1)
    for seed in range(3):
        X = fitted.gibbs(X, random_state=seed)
    assert_moments(fitted, X)


def test_gibbs_moves_by_the_two_conditionals(fitted):
    rows = np.repeat(X_IRIS[:1], 20_000, axis=0)
    moved = fitted.gibbs(rows, random_state=0)
    p = fitted.transform(X_IRIS[:1])[0]
    W = fitted.components_
    mean = fitted.intercept_visible_ + p @ W
    variance = fitted.scale_**2 + (p * (1 - p)) @ W**2
    assert (np.abs(moved.mean(axis=0) - mean) < 5 * np.sqrt(variance / len(moved))).all()
    assert_allclose(moved.var(axis=0), variance, rtol=5 * np.sqrt(3 / len(moved)))


def test_gibbs_dtype_shape_and_seed(fitted):
    assert fitted.gibbs(X_IRIS).shape == X_IRIS.shape
    assert fitted.gibbs(X_IRIS.astype(np.float32)).dtype == np.float32
    assert_array_equal(fitted.gibbs(X_IRIS), fitted.gibbs(X_IRIS))
    assert np.abs(fitted.gibbs(X_IRIS, random_state=1) - fitted.gibbs(X_IRIS)).max() > 1e-6


def test_mean_given_hidden_units(fitted):
    H = np.array([[0.0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
    expected = fitted.intercept_visible_ + H @ fitted.components_
    assert_allclose(fitted.inverse_transform(H), expected, rtol=1e-12)
    assert fitted.inverse_transform(H.astype(np.float32)).dtype == np.float32
    expected = fitted.inverse_transform(fitted.transform(X_IRIS))
    assert_allclose(fitted.reconstruct(X_IRIS), expected, rtol=1e-12)


def test_chains(fitted):
    chains = fitted.run_chains(50, 20, burn_in=5, random_state=0)
    assert chains.samples.shape == (20, 50, 4)
    assert chains.r_hat.shape == chains.effective_sample_size.shape == (4,)
    assert np.isnan(chains.acceptance_rate)
    again = fitted.run_chains(50, 20, burn_in=5, random_state=0)
    assert_array_equal(again.samples, chains.samples)
    from_data = fitted.run_chains(n_steps=4, X=X_IRIS, random_state=0)
    assert from_data.samples.shape == (4, 150, 4)


def test_independent_draws_as_a_chain(fitted):
    chains = fitted.run_chains(100, 100, sampler="exact", random_state=0)
    assert_moments(fitted, chains.samples.reshape(-1, 4))
    assert (np.abs(chains.r_hat - 1) < 0.05).all()
    assert (chains.effective_sample_size > 5000).all()


def test_step_size_of_chains(fitted):
    def rate(step_size):
        sampler = MetropolisLangevin(step_size=step_size)
        return fitted.run_chains(500, 4, sampler=sampler, random_state=0).acceptance_rate

    named = fitted.run_chains(500, 4, sampler="metropolis-langevin", random_state=0)
    assert rate(0.3) == named.acceptance_rate
    assert rate(0.01) > 0.99 and rate(4.0) < 0.5


# Unadjusted Langevin has a bias of the order of step_size squared, and annealed steps more.
UNBIASED = [name for name in SAMPLERS if name not in ("langevin", "gibbs-langevin")]


@pytest.mark.parametrize("sampler", UNBIASED)
def test_every_unbiased_sampler_leaves_the_moments_alone(fitted, sampler):
    X = fitted.sample(10_000, random_state=3)
    chains = fitted.run_chains(n_steps=4, sampler=sampler, X=X, random_state=0)
    assert_moments(fitted, chains.samples[-1])
    if "metropolis" in sampler:
        assert 0.3 < chains.acceptance_rate <= 1


# --- fitting --------------------------------------------------------------------------------------


def test_partial_fit_goes_on():
    model = rbm(max_iter=5, learning_rate=0.03)
    first = model.partial_fit(X_IRIS).score(X_IRIS)
    for _ in range(30):
        model.partial_fit(X_IRIS)
    assert model.score(X_IRIS) > first + 0.3
    assert model.n_iter_ == 31
    assert {len(values) for values in model.history_.values()} == {31}


def test_partial_fit_keeps_the_units_of_the_first_call():
    model = rbm().partial_fit(X_IRIS)
    model.partial_fit(X_IRIS[:50] + 100)
    assert np.isfinite(model.score_samples(X_IRIS)).all()
    assert abs(model.intercept_visible_ - X_IRIS.mean(axis=0)).max() < 20


def test_warm_start_goes_on():
    params = {"max_iter": 15, "early_stopping": False, "learning_rate": 0.03}
    cold = rbm(**params).fit(X_IRIS)
    warm = rbm(**params, warm_start=True).fit(X_IRIS).fit(X_IRIS)
    assert warm.n_iter_ == 30
    assert warm.score(X_IRIS) > cold.score(X_IRIS)
    refit = cold.fit(X_IRIS)
    assert refit.n_iter_ == 15


def test_early_stopping_restores_the_best_state():
    model = rbm(12, max_iter=400, learning_rate=0.05, n_iter_no_change=5, random_state=1)
    model.fit(X_IRIS)
    validation = model.history_["validation"]
    assert model.n_iter_ < 400
    best = validation.argmax()
    assert best < len(validation) - 1
    # Stopped at the best epoch at once, the same model comes out.
    stopped = clone(model).set_params(max_iter=best + 1, n_iter_no_change=1000).fit(X_IRIS)
    assert_allclose(stopped.score_samples(X_IRIS), model.score_samples(X_IRIS), atol=1e-6)


def test_history_is_on_the_scale_of_x(monkeypatch):
    monkeypatch.setattr(PriorFit, "averaging", 0.0)
    model = rbm(max_iter=40, early_stopping=False, batch_size=1000).fit(X_IRIS)
    # Full batches, and no average: the last epoch's objective is that before its only step.
    shorter = clone(model).set_params(max_iter=39).fit(X_IRIS)
    assert model.history_["objective"][-1] == pytest.approx(shorter.score(X_IRIS), abs=1e-4)
    held_out = rbm(max_iter=10).fit(X_IRIS).history_["validation"]
    assert abs(held_out[-1] - shorter.score(X_IRIS)) < 2


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("partition", DENSITY_PARTITIONS)
def test_every_way_of_training(partition, sampler):
    model = rbm(partition=partition, sampler=sampler, max_iter=2).fit(X_IRIS)
    assert np.isfinite(model.score_samples(X_IRIS)).all()
    assert np.isfinite(model.partial_fit(X_IRIS).score(X_IRIS))


def test_auto_is_exact_then_persistent(monkeypatch):
    auto = rbm(max_iter=5).fit(X_IRIS)
    exact = rbm(max_iter=5, partition="exact").fit(X_IRIS)
    assert_array_equal(auto.score_samples(X_IRIS), exact.score_samples(X_IRIS))
    monkeypatch.setattr(gaussian_bernoulli, "EXACT_TRAINING_UNITS", 3)
    auto = rbm(max_iter=5).fit(X_IRIS)
    chains = rbm(max_iter=5, partition="persistent").fit(X_IRIS)
    assert_array_equal(auto.score_samples(X_IRIS), chains.score_samples(X_IRIS))
