"""Ex-post densities: the law of the latents is that of an estimator fitted after training."""

import copy
import itertools
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pairs import quick_and_slow
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NormalPrior, vae_fit
from skevae.datasets import toy_density
from skevae.densities import gaussian_bernoulli
from skevae.densities.ex_post import POINTS_AT_ONCE, EstimatorDensity, fit_density
from skevae.networks.scales import positive
from skevae.posteriors import POSTERIORS
from skevae.utils.random import draw_seed, quasi_normal


def affine(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.Linear(n_inputs, n_outputs)


def quick(**params):
    """Train a few dozen steps of a small network under a prior that stays N(0, I)."""
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "prior": "normal",
        "likelihood": "gaussian",
        "max_iter": 6,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "n_draws": 4,
        "n_score_draws": 40,
        "kl_warmup": 0.0,
        "early_stopping": False,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


def two_groups(n=60, seed=0):
    rng = np.random.RandomState(seed)
    centre = rng.choice([-1, 1], size=(n, 1)) * [1.0, 0.5]
    return (rng.normal(size=(n, 2)) * [0.6, 0.8] + centre) * [2.0, 0.1] + [10.0, -1.0]


def rows(n=200, n_features=5, seed=0):
    rng = np.random.RandomState(seed)
    mixing = rng.normal(size=(2, n_features))
    latent = rng.normal(size=(n, 2)) + 3 * rng.choice([-1, 1], size=(n, 1))
    return latent @ mixing + 0.7 * rng.normal(size=(n, n_features)) + 3.0


EX_POSTS = {
    "none": None,
    "mixture": GaussianMixture(3),
    "kernel": KernelDensity(bandwidth=0.5),
    "rbm": GaussianBernoulliRBMPrior(3, max_iter=3),
    "vae": quick(max_iter=40, n_score_draws=48),
}
X = two_groups()


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """One draw for each row: the cost of a kernel density is that of its fit's rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae_fit, "EX_POST_DRAWS", 1)
        yield


# --- law 1: a density integrates to one -----------------------------------------------------------

N_GRID = 21


# Flows are slow, and after so short a training their weights vary more.
FLOWS = [name for name in POSTERIORS if name not in ("fixed", "diagonal")]
LAWS = [
    *product(["fixed", "diagonal"], ["gaussian", "gaussian-rowwise"], [40]),
    *product(FLOWS, ["gaussian"], [250]),
]


@quick_and_slow(
    "ex_post, posterior, likelihood, n_draws",
    # Each estimator once, with each posterior and likelihood at least once.
    [(ex_post, *law) for ex_post, law in zip(EX_POSTS, [*LAWS[:3], LAWS[4], LAWS[3]], strict=True)],
    [(ex_post, *law) for ex_post, law in product(EX_POSTS, LAWS)],
)
def test_density_integrates_to_one(ex_post, posterior, likelihood, n_draws):
    model = quick(ex_post=EX_POSTS[ex_post], posterior=posterior, likelihood=likelihood).fit(X)
    model.set_params(n_score_draws=n_draws)
    samples = model.sample(1000, random_state=1)
    low, high = samples.min(axis=0), samples.max(axis=0)
    margin = 0.2 * (high - low)
    axes = [np.linspace(a, b, N_GRID) for a, b in zip(low - margin, high + margin, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    # Each block of noise gives an unbiased integral, so their spread tells the error of the mean.
    integrals = []
    for seed in range(8):
        score = model.log_likelihood(grid, random_state=seed).log_likelihood
        density = np.exp(score).reshape(N_GRID, N_GRID)
        integrals.append(cell * density.sum())
        assert abs(4 * cell * density[::2, ::2].sum() - integrals[-1]) < 0.03, "too coarse a grid"
    error = np.std(integrals, ddof=1) / np.sqrt(len(integrals))
    assert error < 0.04
    # Six errors, as they are estimated with 7 degrees of freedom. The noise inside a nested VAE is
    # one block for all calls.
    assert abs(np.mean(integrals) - 1) < 6 * error + (0.05 if ex_post == "vae" else 0.01)


@pytest.mark.parametrize("ex_post", ["mixture", "kernel", "rbm"])
def test_binary_rows_have_probabilities_that_sum_to_one(ex_post):
    every_row = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    rng = np.random.RandomState(0)
    grey = expit(3 * rng.normal(size=(100, 1)) * np.linspace(-1, 1, 6))
    model = quick(likelihood="bernoulli", ex_post=EX_POSTS[ex_post]).fit(grey)
    sums = [
        np.exp(model.log_likelihood(every_row, random_state=seed).log_likelihood).sum()
        for seed in range(8)
    ]
    error = np.std(sums, ddof=1) / np.sqrt(8)
    assert error < 0.04
    assert abs(np.mean(sums) - 1) < 5 * error
    assert set(np.unique(model.sample(20))) <= {0.0, 1.0}


def test_scores_of_a_bayesian_mixture_are_of_less_than_what_it_samples():
    # What `EstimatorDensity` counts on.
    mixture = BayesianGaussianMixture(n_components=4, random_state=0, max_iter=1000).fit(rows(80))
    sampled = GaussianMixture(4)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(sampled, name, getattr(mixture, name))
    sampled.n_features_in_ = 5
    points = np.concatenate([rows(80), 10 * rows(80, seed=1)])
    assert (mixture.score_samples(points) <= sampled.score_samples(points) + 1e-12).all()


# --- law 3: a linear decoder has a closed form ----------------------------------------------------


def closed_form(model, X):
    """Means, covariances and log-weights of p(x), and ln p(x) of rows: a mixture of Gaussians."""
    weight, bias = (p.detach().double().numpy() for p in model.module_.decoder.parameters())
    likelihood = model.module_.likelihood
    scale = likelihood.min_scale + positive(likelihood.raw_scale.detach().double()).numpy()
    spread, centre = model._standardizer.spread, model._standardizer.centre
    mixture = model.ex_post_
    means = (mixture.means_ @ weight.T + bias) * spread + centre
    covariances = [
        (weight @ covariance @ weight.T + np.diag(scale**2)) * np.outer(spread, spread)
        for covariance in mixture.covariances_
    ]
    log_density = logsumexp(
        [
            np.log(w) + multivariate_normal(mean, covariance).logpdf(X)
            for w, mean, covariance in zip(mixture.weights_, means, covariances, strict=True)
        ],
        axis=0,
    )
    return mixture.weights_, means, np.array(covariances), log_density


@pytest.fixture(scope="module", params=POSTERIORS)
def linear(request):
    model = quick(
        network=affine, posterior=request.param, ex_post=GaussianMixture(3), max_iter=15
    ).fit(rows())
    unseen = rows(60, seed=1)
    return model, unseen, closed_form(model, unseen)


def test_linear_decoder_matches_the_closed_form(linear):
    model, X, (*_, exact) = linear
    result = model.log_likelihood(X, n_draws=4000, random_state=0)
    reliable = result.pareto_k < 0.5
    assert reliable.mean() > 0.5
    error = np.abs(result.log_likelihood - exact)
    assert (error < 5 * result.standard_error + 1e-5)[reliable].all()
    assert abs(model.set_params(n_score_draws=1000).score(X) - exact.mean()) < 0.1


def test_samples_have_the_moments_of_the_closed_form(linear, assert_mean):
    model, _, (weights, means, covariances, _) = linear
    samples = model.sample(4000, random_state=3)
    mean = weights @ means
    assert_mean(samples, mean)
    deviations = means - mean
    covariance = np.einsum("k,kij->ij", weights, covariances)
    covariance += (weights[:, None] * deviations).T @ deviations
    products = (samples - mean)[:, :, None] * (samples - mean)[:, None, :]
    assert_mean(products, covariance)
    # In random order, although the mixture's sampler goes from component to component.
    assert_mean(samples[:1000], mean)


def test_a_posterior_that_is_too_narrow_does_not_flatter():
    # Only the tenth of the draws that comes from the mixture keeps the weights bounded.
    model = quick(network=affine, posterior="diagonal", ex_post=GaussianMixture(3)).fit(rows())
    X = rows(60, seed=1)
    *_, exact = closed_form(model, X)
    with torch.no_grad():
        model.module_.encoder.bias[2:] = -4.0
        model.module_.encoder.weight[2:] = 0.0
    scores = [
        model.log_likelihood(X, n_draws=400, random_state=seed).log_likelihood for seed in range(60)
    ]
    ratio = np.exp(np.array(scores) - exact)
    error = ratio.std(axis=0, ddof=1) / np.sqrt(len(scores))
    light = error < 0.1  # rows near which some of the 40 draws always fall
    assert light.mean() > 0.5
    assert (np.abs(ratio.mean(axis=0) - 1) < 5 * error)[light].all()
    gap = (scores - exact).mean(axis=1)
    assert gap.mean() < 4 * gap.std(ddof=1) / np.sqrt(len(scores))


def test_self_normalized_is_equation_5_with_the_estimator_s_energy(linear):
    model, X, _ = linear
    reported = model.log_likelihood(X[:4], method="self_normalized", n_draws=3, random_state=7)
    module = copy.deepcopy(model.module_).double()
    scaled = torch.from_numpy((X[:4] - model._standardizer.centre) / model._standardizer.spread)
    noise = quasi_normal(3, 2, draw_seed(7))[:, None]
    with torch.no_grad():
        z, log_q = module.posterior.draw(module.encoder(scaled), noise)
        log_p = module.likelihood.log_density(scaled, module.decoder(z)).numpy()
    energy = -np.stack([model.ex_post_.score_samples(part) for part in z.numpy()])
    ratio = -energy - log_q.numpy()
    expected = logsumexp(log_p + ratio, axis=0) - logsumexp(ratio, axis=0)
    expected -= model._standardizer.log_volume
    assert_allclose(reported.log_likelihood, expected, rtol=1e-9)


# --- what it is for -------------------------------------------------------------------------------


def test_it_mends_a_prior_that_the_aggregated_posterior_is_far_from(monkeypatch):
    monkeypatch.setattr(vae_fit, "EX_POST_DRAWS", 1000)
    toy = toy_density("8gaussians")
    train, test = toy.sample(600, random_state=0), toy.sample(300, random_state=1)
    plain = quick(
        hidden_layer_sizes=(32,), objective="elbo", kl_warmup=0.4, max_iter=40, n_score_draws=100
    )
    mended = clone(plain).set_params(ex_post=GaussianMixture(16))
    plain.fit(train)
    mended.fit(train)
    assert_array_equal(plain.transform(test), mended.transform(test))  # the training is the same
    gain = mended.score_samples(test) - plain.score_samples(test)
    assert gain.mean() > 0.1 + 4 * gain.std() / np.sqrt(len(gain))


def test_the_prior_stays():
    plain, model = quick().fit(X), quick(ex_post=GaussianMixture(2)).fit(X)
    assert plain.ex_post_ is None
    assert isinstance(model.prior_, NormalPrior)
    assert model.ex_post_.means_.shape == (2, 2)
    assert_array_equal(model.transform(X), plain.transform(X))
    Z = model.transform(X)
    assert_array_equal(model.prior_.score_samples(Z), plain.prior_.score_samples(Z))


def test_it_is_fitted_to_a_draw_of_every_row(monkeypatch):
    # As many for each row as make a thousand.
    for n_draws, expected in ((1, 60), (100, 120)):
        monkeypatch.setattr(vae_fit, "EX_POST_DRAWS", n_draws)
        model = quick(ex_post=KernelDensity(), early_stopping=True).fit(X)
        draws = np.asarray(model.ex_post_.tree_.data).reshape(-1, 60, 2)
        assert draws.size == 2 * expected
        module = model.module_.double()
        scaled = torch.from_numpy(model._standardizer.tensor(X, "cpu", torch.float64).numpy())
        with torch.no_grad():
            outputs = module.encoder(scaled)
        deviation = draws - module.posterior.mean(outputs).numpy()
        deviation /= module.posterior.variance(outputs).sqrt().detach().numpy()
        # Standard normal: 120 or 240 numbers.
        assert abs(deviation.mean()) < 4 / np.sqrt(deviation.size)
        assert abs((deviation**2).mean() - 1) < 4 * np.sqrt(2 / deviation.size)


# --- as scikit-learn's users expect ---------------------------------------------------------------


@pytest.fixture(scope="module", params=[name for name in EX_POSTS if name != "none"])
def fitted(request):
    return quick(ex_post=EX_POSTS[request.param], n_score_draws=20).fit(X)


def test_the_template_is_left_alone(fitted):
    assert fitted.ex_post_ is not fitted.ex_post
    assert not [name for name in vars(fitted.ex_post) if name.endswith("_") and name[0] != "_"]


def test_calls_leave_the_estimator_alone(fitted):
    def state():
        # The tree of a kernel density counts its calls.
        attributes = {name: vars(fitted.ex_post_)[name] for name in vars(fitted.ex_post_)}
        return pickle.dumps({**attributes, "tree_": None})

    before = state()
    fitted.score_samples(X[:5])
    fitted.sample(4, random_state=3)
    assert state() == before


def test_fits_scores_and_samples_are_reproducible(fitted):
    again = clone(fitted).fit(X)
    assert_array_equal(again.score_samples(X[:9]), fitted.score_samples(X[:9]))
    assert_array_equal(again.sample(5), fitted.sample(5))
    assert np.abs(fitted.sample(5, random_state=1) - fitted.sample(5, random_state=2)).max() > 1e-6


def test_round_trip(fitted):
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.score_samples(X[:9]), fitted.score_samples(X[:9]))
    assert_array_equal(again.sample(5), fitted.sample(5))


def test_a_score_does_not_depend_on_the_other_rows(fitted):
    score = fitted.score_samples(X[:9])
    assert_allclose(fitted.score_samples(X[:9][::-1])[::-1], score, rtol=1e-9)
    assert_allclose(fitted.score_samples(X[4:5]), score[4:5], rtol=1e-9)
    assert fitted.score_samples(X[:9].astype(np.float32)).dtype == np.float32
    assert_allclose(fitted.score_samples(X[:9].astype(np.float32)), score, atol=1e-3)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("name", EX_POSTS)
def test_global_generators_are_untouched(name, seed, global_rng_untouched):
    model = quick(ex_post=EX_POSTS[name], random_state=seed, max_iter=1, n_score_draws=20).fit(X)
    model.score_samples(X[:3])
    model.sample(3)
    model.interpolate(X[0], X[1], 3, 1)


def test_outliers_have_finite_scores(fitted):
    far = X.mean(axis=0) + np.array([[1e3], [1e9], [1e300]]) * X.std(axis=0)
    assert np.isfinite(fitted.score_samples(far[:2])).all()
    assert (fitted.score_samples(far) < -1e5).all()


def test_kernels_of_bounded_support():
    model = quick(ex_post=KernelDensity(kernel="tophat", bandwidth=0.1)).fit(X)
    # Of most draws the weight is zero; those from the kernels themselves remain.
    assert np.isfinite(model.score_samples(X)).all()
    result = model.log_likelihood(X, n_draws=2)
    assert np.isneginf(result.log_likelihood).any()
    assert not np.isnan(result.log_likelihood).any()


def test_random_state_of_its_own():
    left_open = quick(ex_post=GaussianMixture(3)).fit(X)
    assert left_open.ex_post_.random_state is not None
    assert quick(ex_post=GaussianMixture(3, random_state=5)).fit(X).ex_post_.random_state == 5
    nested = quick(ex_post=quick(random_state=None, device="auto"), device="cpu").fit(X)
    assert nested.ex_post_.device == "cpu"
    assert nested.ex_post_.random_state is not None


def test_grid_search_over_its_parameters():
    model = quick(ex_post=GaussianMixture(), max_iter=1)
    assert model.get_params()["ex_post__n_components"] == 1
    grid = {"ex_post__n_components": [1, 3]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X)
    n_best = search.best_params_["ex_post__n_components"]
    assert search.best_estimator_.ex_post_.n_components == n_best
    assert len(set(search.cv_results_["mean_test_score"])) == 2


def test_every_fit_fits_it_anew():
    model = quick(ex_post=GaussianMixture(2), warm_start=True).fit(X)
    first = model.ex_post_
    module = model.fit(X).ex_post_
    assert module is not first
    assert np.abs(module.means_ - first.means_).max() > 1e-6
    part = model.partial_fit(X[:7]).ex_post_
    assert part is not module
    assert model.set_params(ex_post=None).fit(X).ex_post_ is None


def test_a_pass_over_one_row(monkeypatch):
    monkeypatch.setattr(vae_fit, "EX_POST_DRAWS", 100)
    model = quick(ex_post=GaussianMixture(2)).partial_fit(X).partial_fit(X[:1])
    assert np.isfinite(model.score_samples(X)).all()


class Watch:
    """Callback that notes the law of the latents of the model as it stands after each epoch."""

    def __init__(self):
        self.seen = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.seen.append((context.task_name, fitted_estimator.ex_post_))


def test_scoring_callbacks_see_the_prior_while_training_lasts():
    watch = Watch()
    model = quick(ex_post=GaussianMixture(2), warm_start=True).fit(X)
    model.set_callbacks(watch).fit(X)
    during = [law for task, law in watch.seen if task == "epoch"]
    assert during and all(law is None for law in during)
    assert watch.seen[-1] == ("fit", model.ex_post_)


# --- the adapter ----------------------------------------------------------------------------------


def test_energy_is_minus_the_log_density():
    mixture = GaussianMixture(2, random_state=0).fit(X)
    density = EstimatorDensity(mixture, 2)
    z = torch.randn((5, 3, 2), generator=torch.Generator().manual_seed(0))
    energy = density.energy(z)
    assert energy.shape == (5, 3)
    assert energy.dtype == torch.float32
    assert_allclose(energy.numpy()[1], -mixture.score_samples(z[1].double().numpy()), rtol=1e-6)
    assert density.energy(torch.tensor([[torch.inf, 0.0], [torch.nan, 0.0]])).isposinf().all()


def test_points_are_handed_over_in_bounded_numbers():
    sizes = []

    class Counting(GaussianMixture):
        def score_samples(self, X):
            sizes.append(len(X))
            return super().score_samples(X)

    density = EstimatorDensity(Counting(2, random_state=0).fit(X), 2)
    z = torch.randn((POINTS_AT_ONCE + 5, 2), generator=torch.Generator().manual_seed(0))
    assert density.energy(z).shape == (POINTS_AT_ONCE + 5,)
    assert sizes == [POINTS_AT_ONCE, 5]


def test_who_samples_exactly(monkeypatch):
    assert EstimatorDensity(GaussianMixture(2).fit(X), 2).samples_exactly
    vae = quick(ex_post=GaussianBernoulliRBMPrior(4, max_iter=1))
    assert EstimatorDensity(vae.fit(X), 2).samples_exactly
    monkeypatch.setattr(gaussian_bernoulli, "EXACT_SAMPLING_UNITS", 3)
    assert not EstimatorDensity(vae.ex_post.fit(X), 2).samples_exactly
    assert not EstimatorDensity(vae.fit(X), 2).samples_exactly
    assert np.isfinite(vae.score_samples(X)).all()


# --- bad input ------------------------------------------------------------------------------------


class Broken(BaseEstimator):
    """Draws and scores of a density that is none."""

    def __init__(self, score=0.0, n_columns=2):
        self.score = score
        self.n_columns = n_columns

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return np.full(len(X), self.score)

    def sample(self, n_samples):
        return np.zeros((n_samples, self.n_columns))


@pytest.mark.parametrize(
    "ex_post, message",
    [
        ("mixture", "ex_post.*density estimator.*Got 'mixture'"),
        (GaussianMixture, "ex_post.*an instance of a density estimator"),
        (object(), "ex_post.*'score_samples' and 'sample'"),
        (GridSearchCV(KernelDensity(), {"bandwidth": [1.0]}), "ex_post.*its best_estimator_"),
        (KernelDensity(kernel="cosine"), "ex_post=.*only samples kernel='gaussian'"),
        (GaussianMixture(-1), "n_components"),
    ],
)
def test_what_cannot_be_the_law_of_the_latents_is_refused(ex_post, message):
    model = quick(ex_post=ex_post, max_iter=1)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    with pytest.raises(NotFittedError):  # all or nothing
        model.score(X)


@pytest.mark.parametrize(
    "ex_post, message",
    [
        (GaussianMixture(61), "ex_post=.* 60 draws .*Use more rows"),
        (Broken(np.nan), "ex_post.*returned nan"),
        (Broken(np.inf), "ex_post.*returned inf"),
        (Broken(n_columns=3), r"ex_post.*\(100, 3\), not \(100, 2\)"),
    ],
)
def test_a_failure_after_the_training_keeps_the_trained_model(ex_post, message):
    model = quick(ex_post=ex_post, max_iter=1)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert model.ex_post_ is None
    np.testing.assert_array_equal(model.score_samples(X), quick(max_iter=1).fit(X).score_samples(X))


def test_log_density_that_is_nan_only_later():
    model = quick(ex_post=Broken()).fit(X)
    model.ex_post_.score = np.nan
    with pytest.raises(ValueError, match="ex_post.*nan"):
        model.score(X)


def test_fit_density_returns_what_it_fitted():
    mixture = GaussianMixture(2, random_state=0)
    assert fit_density(mixture, torch.from_numpy(X), torch.Generator()) is mixture
    assert mixture.means_.shape == (2, 2)
