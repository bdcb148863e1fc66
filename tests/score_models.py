"""Small models that are fitted in a moment, and rows for them: what the laws of scores share."""

import itertools

import numpy as np
from building import CONTINUOUS
from small_priors import small_prior
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.densities import gaussian_bernoulli
from skevae.networks.scales import positive
from skevae.posteriors import POSTERIORS

GAUSSIANS = CONTINUOUS
# Posteriors whose draws and densities are slow.
FLOWS = [name for name in POSTERIORS if name not in ("fixed", "diagonal")]


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


def all_configurations(n_units):
    return np.array(list(itertools.product([0.0, 1.0], repeat=n_units)))


def decoder_scale(model):
    likelihood = model.module_.likelihood
    return likelihood.min_scale + positive(likelihood.raw_scale.detach().double()).numpy()
