"""What every prior estimator keeps: alone, inside a VAE, and as somebody else's class."""

from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_iris
from small_priors import small_prior
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NormalPrior
from skevae.densities.base import Density
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.priors import PRIORS, DensityPrior

X_IRIS = load_iris().data
QUICK = {"max_iter": 5, "random_state": 0}


def make(name):
    return small_prior(name, **QUICK)


def vae(**params):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "max_iter": 3,
        "n_draws": 2,
        "n_score_draws": 50,
        "batch_size": 64,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


@pytest.fixture(scope="module", params=PRIORS)
def fitted(request):
    return make(request.param).fit(X_IRIS)


# --- alone ----------------------------------------------------------------------------------------


def test_score_is_the_mean_of_the_scores_of_rows(fitted):
    score = fitted.score_samples(X_IRIS)
    assert score.shape == (150,)
    assert fitted.score(X_IRIS) == pytest.approx(score.mean())


def test_log_partition_is_the_upper_end(fitted):
    low, high = fitted.log_partition_interval_
    assert low <= high == fitted.log_partition_
    assert (low == high) == fitted.density_.has_exact_log_partition
    assert isinstance(high, float)
    assert fitted.log_partition_interval_ is fitted.log_partition_interval_


def test_samples_are_from_the_scored_density(fitted):
    # E over samples of the score is minus the entropy, as it is over other samples.
    first, second = (fitted.score_samples(fitted.sample(4000, random_state=s)) for s in (0, 1))
    error = np.hypot(first.std(), second.std()) / np.sqrt(4000)
    assert abs(first.mean() - second.mean()) < 5 * error
    # and E[exp(-score) 1(x in box)] is the volume of a box well inside.
    X = fitted.sample(20_000, random_state=2)
    low, high = np.quantile(X, [0.4, 0.6], axis=0)
    inside = ((X > low) & (X < high)).all(axis=1)
    weights = np.where(inside, np.exp(-fitted.score_samples(X)), 0.0)
    volume = np.prod(high - low)
    error = weights.std() / np.sqrt(len(X))
    # Scores may err low by the width of the interval of ln Z.
    width = np.subtract(*fitted.log_partition_interval_[::-1])
    assert volume - 5 * error < weights.mean() < volume * np.exp(width) + 5 * error


def test_sample_shapes_and_seeds(fitted):
    assert fitted.sample().shape == (1, 4)
    assert fitted.sample(7).shape == (7, 4)
    assert fitted.sample(3).dtype == np.float64
    assert_array_equal(fitted.sample(3), fitted.sample(3))
    assert_array_equal(fitted.sample(3, random_state=1), fitted.sample(3, random_state=1))
    assert np.abs(fitted.sample(3, random_state=1) - fitted.sample(3)).max() > 1e-6
    rng = np.random.RandomState(0)
    first, second = fitted.sample(3, random_state=rng), fitted.sample(3, random_state=rng)
    assert np.abs(first - second).max() > 1e-6


def test_normal_prior_is_the_standard_normal():
    model = NormalPrior(random_state=0).fit(X_IRIS)
    expected = multivariate_normal(np.zeros(4)).logpdf(X_IRIS)
    assert_allclose(model.score_samples(X_IRIS), expected, rtol=1e-12)
    assert model.log_partition_ == pytest.approx(2 * np.log(2 * np.pi))
    X = model.sample(20_000)
    error = 1 / np.sqrt(len(X))
    assert np.abs(X.mean(axis=0)).max() < 5 * error
    assert np.abs(X.var(axis=0) - 1).max() < 5 * np.sqrt(2) * error


# --- inside a VAE ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=PRIORS)
def inside(request):
    return vae(prior=small_prior(request.param)).fit(X_IRIS)


@pytest.mark.parametrize(
    "name",
    # Annealing of the default neural prior takes its time.
    [pytest.param(name, marks=pytest.mark.slow if name == "neural" else ()) for name in PRIORS],
)
def test_a_name_and_an_estimator_are_one(name):
    named, made = (vae(prior=prior, max_iter=1).fit(X_IRIS) for prior in (name, PRIORS[name]()))
    assert_allclose(named.score_samples(X_IRIS), made.score_samples(X_IRIS), rtol=1e-12)


def test_prior_of_a_vae_is_a_fitted_estimator(inside):
    prior = inside.prior_
    assert type(prior) is type(inside.prior)
    assert prior.n_features_in_ == 2
    assert prior.sample(5).shape == (5, 2)
    Z = inside.transform(X_IRIS)
    assert prior.score_samples(Z).shape == prior.energy(Z).shape == (150,)
    low, high = prior.log_partition_interval_
    assert low <= prior.log_partition_ == high
    assert_array_equal(prior.sample(3, random_state=0), prior.sample(3, random_state=0))


def test_prior_of_a_vae_can_be_fitted_and_cloned(inside):
    Z = inside.transform(X_IRIS)
    before = inside.score_samples(X_IRIS)
    again = clone(inside.prior_)
    if "max_iter" in again.get_params():
        again.set_params(max_iter=3)
    assert np.isfinite(again.fit(Z).score(Z))
    assert_array_equal(inside.score_samples(X_IRIS), before)


def test_score_uses_the_prior_s_own_log_partition(inside):
    # Weights are p(x, z) / q(z | x): eq. 5 with everything else equal differs by ln Z only.
    result = inside.log_likelihood(X_IRIS, n_draws=1, random_state=0)
    reconstruction = inside.log_likelihood(
        X_IRIS, n_draws=1, random_state=0, method="self_normalized"
    )
    assert (result.log_likelihood != reconstruction.log_likelihood).all()


def test_hidden_units_of_a_nested_prior():
    model = vae(prior=GaussianBernoulliRBMPrior(3, learn_scale=False)).fit(X_IRIS)
    assert model.prior_.components_.shape == (3, 2)
    assert model.prior_.intercept_hidden_.shape == (3,)
    assert model.prior_.intercept_visible_.shape == (2,)
    assert_array_equal(model.prior_.scale_, [1, 1])
    assert model.prior_.get_params()["n_components"] == 3


# --- somebody else's ------------------------------------------------------------------------------


class StudentDensity(Density):
    """Independent Student t, normalised in closed form, with learned scales."""

    has_exact_log_partition = True
    trains_exactly = True
    n_chains = 1
    degrees = 5.0

    def __init__(self, n_latent):
        super().__init__()
        self.n_latent = n_latent
        self.log_scale = nn.Parameter(torch.zeros(n_latent))

    def why_not_exact(self):
        return "closed form"

    def energy(self, z):
        t = z / self.log_scale.exp()
        return 0.5 * (self.degrees + 1) * torch.log1p(t.square() / self.degrees).sum(-1)

    def log_partition(self):
        nu = torch.tensor(self.degrees, dtype=self.log_scale.dtype)
        each = torch.lgamma(nu / 2) - torch.lgamma((nu + 1) / 2) + 0.5 * torch.log(nu * torch.pi)
        return (each + self.log_scale).sum()

    @torch.no_grad()
    def log_partition_interval(self, generator, effort=1):
        value = self.log_partition().item()
        return LogPartitionInterval(value, value)

    def quick_log_partition(self, generator):
        return self.log_partition_interval(generator).high

    @torch.no_grad()
    def sample(self, n_samples, generator):
        like = {"generator": generator, "dtype": self.log_scale.dtype}
        normal = torch.randn((n_samples, self.n_latent), **like)
        chi = torch.randn((n_samples, self.n_latent, int(self.degrees)), **like).square().sum(-1)
        return self.log_scale.exp() * normal / (chi / self.degrees).sqrt()


class StudentPrior(DensityPrior):
    def __init__(self, device="auto", random_state=None):
        self.device = device
        self.random_state = random_state

    def make_density(self, n_features, generator):
        return StudentDensity(n_features)


@pytest.mark.parametrize("partition", ["auto", "exact", "aggregate", "posterior"])
def test_a_prior_of_one_s_own(partition):
    model = vae(prior=StudentPrior(), partition=partition, max_iter=20).fit(X_IRIS)
    assert isinstance(model.prior_, StudentPrior)
    assert np.isfinite(model.score(X_IRIS))
    assert model.sample(5).shape == (5, 4)
    scale = model.prior_.density_.log_scale.exp().detach().numpy()
    assert not np.allclose(scale, 1)
    assert model.prior_.log_partition_ == pytest.approx(
        model.module_.density.log_partition().item(), abs=1e-5
    )


class OtherPrior:
    """The small interface alone: no scikit-learn class, and not ours."""

    def __init__(self):
        self.score_samples = self.sample = None

    def get_params(self, deep=True):
        return {}

    def make_density(self, n_features, generator):
        return StudentDensity(n_features)

    def with_density(self, density, random_state):
        fitted = OtherPrior()
        fitted.density = density
        fitted.log_partition_interval_ = density.log_partition_interval(None)
        fitted.log_partition_ = fitted.log_partition_interval_.high
        return fitted


def test_the_documented_interface_is_enough():
    model = vae(prior=OtherPrior()).fit(X_IRIS)
    assert isinstance(model.prior_, OtherPrior)
    assert np.isfinite(model.score(X_IRIS))
    assert model.sample(2).shape == (2, 4)
    assert np.isfinite(model.partial_fit(X_IRIS).score(X_IRIS))


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("context", [torch.inference_mode, partial(torch.autocast, "cpu")])
def test_calls_do_not_depend_on_the_context_of_torch(name, context):
    prior = small_prior(name, n_annealing_steps=10).set_params(random_state=0)
    prior.fit(np.random.RandomState(0).randn(60, 3).astype(np.float32))
    X = np.random.RandomState(1).randn(5, 3).astype(np.float32)

    def called():
        results = [prior.normalize(effort=2), prior.score_samples(X), prior.sample(4)]
        if hasattr(prior, "run_chains"):
            results.append(prior.run_chains(3, n_steps=4).samples)
        if hasattr(prior, "gibbs"):
            results += [prior.transform(X), prior.gibbs(X)]
        return results

    expected = called()
    with context():
        found = called()
    for one, other in zip(expected, found, strict=True):
        assert_array_equal(one, other)
