"""One member of each kind, added from outside the package, goes through the laws."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NeuralPrior, NormalPrior
from skevae.densities.base import NormalizedDensity
from skevae.likelihoods import LIKELIHOODS
from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.networks import NETWORKS
from skevae.networks.base import Network
from skevae.partitions import PARTITIONS
from skevae.partitions.exact import ExactPartition
from skevae.posteriors import POSTERIORS
from skevae.posteriors.normal import FixedNormal
from skevae.priors import PRIORS
from skevae.samplers import SAMPLERS
from skevae.samplers.gibbs import BlockGibbs
from skevae.training import OBJECTIVES
from skevae.training.objectives import EvidenceLowerBound, ImportanceWeightedBound


class WideNormal(FixedNormal):
    """q(z | x) = N(m(x), 4 I)."""

    def variance(self, outputs):
        return 4 * super().variance(outputs)

    def draw(self, outputs, noise):
        z, log_density = super().draw(0 * outputs, noise)
        return outputs + 2 * z, log_density - self.n_latent * math.log(2)

    def invert(self, z, outputs):
        noise, log_density = super().invert(z / 2, outputs / 2)
        return noise, log_density - self.n_latent * math.log(2)

    def pairwise_log_density(self, z, outputs):
        return super().pairwise_log_density(z / 2, outputs / 2) - self.n_latent * math.log(2)


class Logistic(Likelihood):
    """A logistic distribution for each feature, of learned scale."""

    def __init__(self, n_features):
        super().__init__(n_features, n_outputs=n_features)
        self.log_scale = nn.Parameter(torch.zeros(n_features))

    def feature_log_density(self, x, outputs):
        y = (x - outputs) / self.log_scale.exp()
        return -y - self.log_scale - 2 * nn.functional.softplus(-y)

    def mean(self, outputs):
        return outputs

    def sample(self, outputs, generator):
        uniform = torch.rand(outputs.shape, generator=generator, dtype=outputs.dtype)
        return outputs + self.log_scale.exp() * uniform.logit()


class LogisticLikelihood(LikelihoodFamily):
    def make_likelihood(self, n_features):
        return Logistic(n_features)


class LaplaceDensity(NormalizedDensity):
    """Independent Laplace distributions."""

    def log_density(self, z):
        return -z.abs().sum(-1) - self.n_latent * math.log(2)

    def sample(self, n_samples, generator):
        shape = (n_samples, self.n_latent)
        sides = torch.rand((2, *shape), generator=generator, dtype=self.anchor.dtype).log()
        return sides[0] - sides[1]


class LaplacePrior(NormalPrior):
    def make_density(self, n_features, generator):
        return LaplaceDensity(n_features)


class Halfway(ImportanceWeightedBound):
    """Halfway between both bounds."""

    def __call__(self, log_weights):
        elbo = EvidenceLowerBound()(log_weights)
        return 0.5 * (super().__call__(log_weights) + elbo)


class CheckedPartition(ExactPartition):
    """Exact, and checked at every step."""

    def refresh(self):
        self._checked = True


class TwiceGibbs(BlockGibbs):
    """Two sweeps in the place of one."""

    def step(self, energy, z, generator, index):
        return super().step(energy, super().step(energy, z, generator, index), generator, index)


class Shallow(Network):
    def _build(self, n_inputs, n_outputs, hidden_layer_sizes):
        width = hidden_layer_sizes[0]
        return nn.Sequential(
            self._linear(n_inputs, width), self._activation(), self._linear(width, n_outputs)
        )


NEWCOMERS = [
    (POSTERIORS, "posterior", WideNormal),
    (LIKELIHOODS, "likelihood", LogisticLikelihood),
    (PRIORS, "prior", LaplacePrior),
    (OBJECTIVES, "objective", Halfway()),
    (PARTITIONS, "partition", CheckedPartition),
    (NETWORKS, "network", Shallow),
]


@pytest.fixture(scope="module")
def plane():
    rng = np.random.RandomState(0)
    angle = rng.uniform(0, 2 * np.pi, 200)
    return np.c_[np.cos(angle), np.sin(angle)] + 0.3 * rng.randn(200, 2)


def vae(**params):
    common = {"hidden_layer_sizes": (16,), "max_iter": 5, "batch_size": 64, "random_state": 0}
    return EnergyVAE(2, n_score_draws=100, **{**common, **params})


@pytest.mark.parametrize("registry, parameter, member", NEWCOMERS, ids=lambda v: str(v)[:20])
def test_a_newcomer_keeps_the_laws(registry, parameter, member, plane, plane_grid, monkeypatch):
    name = "from outside"
    with pytest.raises(ValueError, match=parameter):
        vae(**{parameter: name}).fit(plane)
    monkeypatch.setitem(registry, name, member)
    model = vae(**{parameter: name}).fit(plane)
    # Law 1: normalised.
    nodes, area = plane_grid(6.6, 45)
    total = np.exp(model.score_samples(nodes.numpy())).sum() * area
    assert abs(total - 1) < 0.03
    # Law 10: on the scale of X.
    shift = vae(**{parameter: name}).fit(1024 * plane).score(1024 * plane) - model.score(plane)
    assert shift == pytest.approx(-2 * math.log(1024), abs=1e-4)
    # Clones, draws, holes.
    again = clone(model).fit(plane)
    assert again.score(plane) == model.score(plane)
    holes = np.where([True, False], plane, np.nan)
    assert np.isfinite(model.sample(50)).all() and np.isfinite(model.score(holes))


def test_newcomers_are_taken_by_priors_too(monkeypatch):
    X = np.random.RandomState(0).randn(100, 2)
    monkeypatch.setitem(PARTITIONS, "from outside", CheckedPartition)
    monkeypatch.setitem(NETWORKS, "from outside", Shallow)
    rbm = GaussianBernoulliRBMPrior(4, partition="from outside", max_iter=2, random_state=0)
    assert rbm.fit(X).score(X) == clone(rbm).set_params(partition="exact").fit(X).score(X)
    neural = NeuralPrior((8,), network="from outside", max_iter=2, n_annealing_steps=10)
    assert np.isfinite(neural.fit(X).score(X))


def test_a_newcomer_among_samplers(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "from outside", TwiceGibbs)
    X = np.random.RandomState(0).randn(200, 2)
    named = GaussianBernoulliRBMPrior(4, sampler="from outside", max_iter=3, random_state=0)
    made = clone(named).set_params(sampler=TwiceGibbs())
    assert named.fit(X).score(X) == made.fit(X).score(X)
    # It leaves exact moments unchanged.
    states = named.run_chains(400, n_steps=50, random_state=0).samples[-1]
    exact = named.sample(4000, random_state=1)
    error = np.sqrt(exact.var(0) * (1 / 400 + 1 / 4000))
    assert (np.abs(states.mean(0) - exact.mean(0)) < 4 * error).all()
