"""The laws of `score`: normalised, right where the answer is known, and erring low."""

import copy
import itertools
import random
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn import config_context
from sklearn.decomposition import FactorAnalysis
from sklearn.preprocessing import StandardScaler
from small_priors import LATER, TRAINED, small_prior
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NormalPrior
from skevae.densities import gaussian_bernoulli
from skevae.datasets import TOY_DENSITIES, toy_density
from skevae.likelihoods import LIKELIHOODS
from skevae.networks.scales import positive
from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.utils.random import draw_seed, quasi_normal

GAUSSIANS = [name for name, kind in LIKELIHOODS.items() if kind.is_continuous]


def prior_of(name, n_hidden=5):
    return GaussianBernoulliRBMPrior(n_hidden) if name == "grbm" else small_prior(name)


def two_groups(n=300, seed=0):
    """Two overlapping groups in the plane, on scales and with means of no convenience."""
    rng = np.random.RandomState(seed)
    centre = rng.choice([-1, 1], size=(n, 1)) * [1.0, 0.5]
    return (rng.normal(size=(n, 2)) * [0.6, 0.8] + centre) * [2.0, 0.1] + [10.0, -1.0]


def rows(n=200, n_features=5, seed=0):
    rng = np.random.RandomState(seed)
    mixing = rng.normal(size=(2, n_features))
    return rng.normal(size=(n, 2)) @ mixing + 0.7 * rng.normal(size=(n, n_features)) + 3.0


def nothing_is_exact(monkeypatch):
    """Make four hidden units too many, so that annealing and chains take over."""
    for name in ("EVALUATION", "SAMPLING", "WATCHING", "TRAINING"):
        monkeypatch.setattr(gaussian_bernoulli, f"EXACT_{name}_UNITS", 3)


def affine(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.Linear(n_inputs, n_outputs)


def quick(**params):
    """Train a few dozen steps of a small network."""
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "likelihood": "gaussian",
        "max_iter": 10,
        "batch_size": 64,
        "learning_rate": 1e-2,
        "n_draws": 4,
        "kl_warmup": 0.0,
        "early_stopping": False,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


# --- law 1: a density integrates to one -----------------------------------------------------------

N_GRID = 33
N_DRAWS = 4000
# What the paper's training leaves is spiky: its integral takes more draws to the same error.
N_DRAWS_SPIKY = 40_000


def plane(model):
    """Grid over all that the model generates, and the area of its cells.

    Sums over such a grid converge faster than any power of its step once the step is below the
    narrowest scale, so the sum over every second point bounds what it misses.
    """
    X = model.sample(4000, random_state=1)
    low, high = X.min(axis=0), X.max(axis=0)
    margin = 0.3 * (high - low)
    axes = [np.linspace(a, b, N_GRID) for a, b in zip(low - margin, high + margin, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid.astype(np.float32), float(np.prod([axis[1] - axis[0] for axis in axes]))


def shortfall(prior):
    """Least that a score can integrate to, as it errs low by the width of the interval of ln Z."""
    low, high = prior.log_partition_interval_
    return np.exp(low - high)


def integrate(log_density, cell, tolerance=0.01):
    density = np.exp(log_density.astype(np.float64)).reshape(N_GRID, N_GRID)
    fine, coarse = cell * density.sum(), 4 * cell * density[::2, ::2].sum()
    assert abs(fine - coarse) < tolerance, "the grid is too coarse for this density"
    return fine


# Flows take part with the ways to train that can differ for them: one that asks for their density
# at any z, and one that does not. All partitions and likelihoods come with two priors, each other
# prior as it is by default.
FLOWS = ("iaf", "iaf-volume-preserving")
SETTINGS = [
    *product(PARTITIONS, ["grbm", "normal"], ["diagonal", "fixed"], GAUSSIANS),
    *product(["exact", "aggregate"], ["grbm", "normal"], FLOWS, ["gaussian"]),
    *product(["auto"], ["mixture", "vamp", "neural"], ["diagonal", "fixed"], ["gaussian"]),
    *product(["auto"], ["vamp"], FLOWS, ["gaussian"]),
    ("auto", "flow", "diagonal", "gaussian"),  # thousands of splines a row take their time
]


@pytest.mark.parametrize("partition, prior, posterior, likelihood", SETTINGS)
def test_density_integrates_to_one(partition, prior, posterior, likelihood):
    n_draws = N_DRAWS_SPIKY if partition == "posterior" else N_DRAWS
    n_draws = 1000 if posterior in FLOWS else n_draws
    model = quick(
        prior=prior_of(prior),
        posterior=posterior,
        likelihood=likelihood,
        partition=partition,
        n_score_draws=n_draws,
    ).fit(two_groups())
    grid, cell = plane(model)
    # Independent noise tells how far the integral of one block of noise may be off.
    n_few = n_draws // 8
    others = [
        integrate(model.log_likelihood(grid, n_draws=n_few, random_state=i).log_likelihood, cell)
        for i in range(4)
    ]
    standard_error = np.std(others, ddof=1) * np.sqrt(n_few / n_draws)
    assert standard_error < 0.01
    mass = integrate(model.score_samples(grid), cell)
    assert shortfall(model.prior_) - 0.02 < mass < 1.02


@pytest.mark.parametrize("prior", PRIORS)
def test_density_of_a_prior_integrates_to_one(prior):
    model = quick(prior=prior_of(prior)).fit(two_groups()).prior_
    grid, cell = plane(model)
    # A spline has kinks, which the grid sees.
    error = 0.02 if prior == "flow" else 1e-4
    mass = integrate(model.score_samples(grid), cell, 0.05 if prior == "flow" else 0.01)
    assert shortfall(model) - error < mass < 1 + error


def test_sampled_rows_have_the_scored_density():
    # E[p(x)] over samples equals the integral of p^2 over the grid: sampler and score agree.
    model = quick(prior=prior_of("grbm"), max_iter=30, n_score_draws=N_DRAWS).fit(two_groups())
    grid, cell = plane(model)
    expected = cell * np.exp(2.0 * model.score_samples(grid).astype(np.float64)).sum()
    X = model.sample(4000, random_state=2).astype(np.float32)
    density = np.exp(model.score_samples(X).astype(np.float64))
    error = density.std() / np.sqrt(len(X))
    assert abs(density.mean() - expected) < 5 * error + 0.02 * expected


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", PRIORS)
def test_binary_rows_have_probabilities_that_sum_to_one(prior, posterior):
    n_features = 6
    every_row = np.array(list(itertools.product([0.0, 1.0], repeat=n_features)))
    rng = np.random.RandomState(0)
    logits = 3 * rng.normal(size=(200, 1)) * np.linspace(-1, 1, n_features)
    X = (rng.uniform(size=logits.shape) < expit(logits)).astype(float)
    model = quick(prior=prior_of(prior), posterior=posterior, likelihood="bernoulli").fit(X)
    sums = [
        np.exp(model.log_likelihood(every_row, random_state=seed).log_likelihood).sum()
        for seed in range(16)
    ]
    error = np.std(sums, ddof=1)
    assert error < 0.05
    least, mean_error = shortfall(model.prior_), 5 * error / np.sqrt(len(sums))
    assert least - mean_error < np.mean(sums) < 1 + mean_error
    assert least - 5 * error < np.exp(model.score_samples(every_row)).sum() < 1 + 5 * error


# --- law 3: a linear decoder has a closed form ----------------------------------------------------


def all_configurations(n_units):
    return np.array(list(itertools.product([0.0, 1.0], repeat=n_units)))


def decoder_scale(model):
    likelihood = model.module_.likelihood
    return likelihood.min_scale + positive(likelihood.raw_scale.detach().double()).numpy()


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


LINEAR = [
    (prior, posterior)
    for prior, posterior in product(ORACLES, POSTERIORS)
    if posterior not in FLOWS or prior == "grbm"
]


@pytest.fixture(scope="module", params=LINEAR, ids="-".join)
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
    n_seeds = 400
    seeds = range(n_seeds)
    few = np.array(
        [model.log_likelihood(X, n_draws=2, random_state=s).log_likelihood for s in seeds]
    )
    gap = (few - exact).mean(axis=1)
    assert gap.mean() < -3 * gap.std() / np.sqrt(n_seeds)
    ratio = np.exp(few - exact)
    one = ratio.mean(axis=0)
    error = ratio.std(axis=0) / np.sqrt(n_seeds)
    light = error < 0.1  # rows whose weights have a mean that 800 draws can see
    assert light.mean() > 0.5
    assert (np.abs(one - 1) < 5 * error)[light].all()


def test_scores_err_low_whatever_error_is_asked_for(linear):
    """Draws that decided by themselves when they are enough would end on luck."""
    model, X, exact = linear
    tol = np.median(model.log_likelihood(X, n_draws=62).standard_error)
    n_seeds = 40 if model.posterior in FLOWS else 200
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
    for n_draws, n_seeds in ((1, 400), (4, 400), (64, 50)):
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
    for dtype, tolerance in ((np.float64, 1e-6), (np.float32, 1e-2)):
        both = np.concatenate([X, far]).astype(dtype)
        result = model.log_likelihood(both, n_draws=n)
        assert np.isfinite(result.log_likelihood).all()
        size = result.effective_sample_size
        assert (size >= 1 - tolerance).all()
        assert (size <= n * (1 + tolerance)).all()
        # sd(w) / (mean(w) sqrt(n)) and (sum w)^2 / sum w^2 say the same thing.
        expected = np.sqrt(np.maximum(1 / size - 1 / n, 0) * n / (n - 1))
        assert_allclose(result.standard_error, expected, atol=tolerance)


def test_one_draw_has_no_error_to_show(linear):
    model, X, _ = linear
    result = model.log_likelihood(X, n_draws=1)
    assert np.isinf(result.standard_error).all()
    assert_allclose(result.effective_sample_size, 1)
    assert np.isnan(result.pareto_k).all()


# --- law 5: what the paper reports with one draw is the reconstruction ----------------------------


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("prior", PRIORS)
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


# --- law 9: nothing global ------------------------------------------------------------------------

X_GLOBAL = rows()
X_UNIT = expit(X_GLOBAL - 3)


def global_states():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), [*map(np.copy, numpy_state[1:])], torch.get_rng_state().numpy()


def public_calls():
    for seed in (None, 0, np.random.RandomState(0)):
        vae = quick(prior=prior_of("grbm"), max_iter=2, random_state=seed, n_score_draws=20)
        for partition, posterior in product(PARTITIONS, POSTERIORS):
            vae.set_params(partition=partition, posterior=posterior, early_stopping=True)
            yield vae.fit, (X_GLOBAL,), {}
        yield vae.partial_fit, (X_GLOBAL,), {}
        for name in ("score", "score_samples", "transform", "reconstruct", "log_likelihood"):
            yield getattr(vae, name), (X_GLOBAL,), {}
        yield vae.log_likelihood, (X_GLOBAL,), {"random_state": seed, "method": "self_normalized"}
        yield vae.inverse_transform, (np.zeros((3, 2)),), {}
        yield vae.sample, (3,), {}
        yield vae.sample, (3,), {"random_state": seed}
        yield vae.prior_.sample, (3,), {}
        images = quick(likelihood="bernoulli", prior="normal", max_iter=2, random_state=seed)
        for name in ("fit", "partial_fit", "score", "transform"):
            yield getattr(images, name), (X_UNIT,), {}
        yield images.sample, (3,), {}
        rbm = GaussianBernoulliRBMPrior(4, max_iter=2, random_state=seed)
        for partition in ("exact", "persistent"):
            rbm.set_params(partition=partition)
            for name in ("fit", "transform", "gibbs", "energy", "score_samples", "score"):
                yield getattr(rbm, name), (X_GLOBAL,), {}
            yield rbm.sample, (3,), {"random_state": seed}
        for prior in LATER:
            own = small_prior(prior, max_iter=2, n_annealing_steps=20, random_state=seed)
            for name in ("fit", "partial_fit", "energy", "score_samples", "score"):
                yield getattr(own, name), (X_GLOBAL,), {}
            yield own.sample, (3,), {}
            yield repr, (own.density_,), {}
            yield quick(prior=own, max_iter=2, random_state=seed).fit, (X_GLOBAL,), {}
        normal = NormalPrior(random_state=seed)
        yield normal.fit, (X_GLOBAL,), {}
        yield normal.score_samples, (X_GLOBAL,), {}
        yield normal.sample, (3,), {}
        for name in TOY_DENSITIES:
            yield toy_density(name).sample, (10,), {"random_state": seed}


def test_global_generators_are_untouched():
    before = global_states()
    for method, args, kwargs in public_calls():
        method(*args, **kwargs)
        after = global_states()
        assert after[0] == before[0], method
        for new, old in zip(after[1], before[1], strict=True):
            assert_array_equal(new, old, err_msg=str(method))
        assert_array_equal(after[2], before[2], err_msg=str(method))


def test_annealing_leaves_the_global_generators_alone(monkeypatch):
    nothing_is_exact(monkeypatch)
    before = global_states()
    vae = quick(prior=prior_of("grbm"), random_state=None, max_iter=1).fit(X_GLOBAL)
    vae.sample(2)
    after = global_states()
    assert after[0] == before[0]
    assert_array_equal(after[1][0], before[1][0])
    assert_array_equal(after[2], before[2])


def test_global_seeds_have_no_influence():
    scores = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        scores.append(quick(max_iter=2).fit(X_GLOBAL).score_samples(X_GLOBAL))
    assert_array_equal(scores[0], scores[1])


# --- law 10: units -------------------------------------------------------------------------------

# Rows on a dyadic grid, and 128 of them: means, shifts and factors of 4 are exact in floating
# point, so that a law of the mathematics is a law of the numbers.
X_DYADIC = np.round(rows(128) * 2**10) / 2**10
SCALE, SHIFT = 4.0, np.array([64.0, -128.0, 0.0, 1024.0, 5.0])
MODELS = {
    **{
        f"{likelihood}-{posterior}-{prior}": quick(
            prior=prior_of(prior), posterior=posterior, likelihood=likelihood, early_stopping=True
        )
        for likelihood, posterior, prior in [
            *product(GAUSSIANS, POSTERIORS, ["grbm", "normal"]),
            *product(["gaussian"], ["diagonal"], LATER),
        ]
    },
    **{name: small_prior(name, max_iter=10, random_state=0) for name in TRAINED},
}


@pytest.mark.parametrize("name", MODELS)
def test_scaling_x_shifts_the_score_by_the_log_jacobian(name):
    model = MODELS[name]
    model.fit(X_DYADIC)
    score, history, sample = model.score_samples(X_DYADIC), model.history_, model.sample(5)
    latents = model.transform(X_DYADIC) if hasattr(model, "transform") else None
    model.fit(SCALE * X_DYADIC)
    shift = X_DYADIC.shape[1] * np.log(SCALE)
    assert_allclose(model.score_samples(SCALE * X_DYADIC), score - shift, rtol=1e-12)
    if latents is not None:
        assert_array_equal(model.transform(SCALE * X_DYADIC), latents)
    assert_allclose(model.sample(5), SCALE * sample, rtol=1e-12)
    for term in ("objective", "validation"):
        assert_allclose(model.history_[term], history[term] - shift, rtol=1e-12)
    if "reconstruction" in history:
        assert_allclose(
            model.history_["reconstruction"], history["reconstruction"] - shift, rtol=1e-12
        )


@pytest.mark.parametrize("name", MODELS)
def test_shifting_x_changes_nothing(name):
    model = MODELS[name]
    score = model.fit(X_DYADIC).score_samples(X_DYADIC)
    sample = model.sample(5)
    assert_allclose(model.fit(X_DYADIC + SHIFT).score_samples(X_DYADIC + SHIFT), score, rtol=1e-9)
    assert_allclose(model.sample(5), sample + SHIFT, rtol=1e-9)


def test_far_from_the_origin():
    # float32 has no digits left for a spread of 1 at 1e8, float64 has.
    X = X_DYADIC + 2.0**27
    score = MODELS["grbm"].fit(X_DYADIC).score_samples(X_DYADIC)
    assert_allclose(MODELS["grbm"].fit(X).score_samples(X), score, rtol=1e-5)


# --- a score is a function of its row -------------------------------------------------------------


@pytest.fixture(scope="module", params=["gaussian-rowwise", "bernoulli"])
def scored(request):
    X = X_UNIT if request.param == "bernoulli" else X_GLOBAL
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
    alone = np.concatenate([model.score_samples(X[i : i + 1]) for i in range(20)])
    assert_allclose(alone, score[:20], rtol=1e-10)
    with config_context(working_memory=0.01):
        assert_allclose(model.score_samples(X), score, rtol=1e-10)
        assert_allclose(model.log_likelihood(X).log_likelihood, score, rtol=1e-10)
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
