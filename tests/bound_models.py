"""Small models with all parameters stirred, their draws and bounds, for the laws of training."""

import pytest
import torch
from building import make_likelihood
from torch import nn

from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.partitions import PARTITIONS
from skevae.partitions.chains import ChainPartition
from skevae.posteriors import POSTERIORS
from skevae.training import OBJECTIVES
from skevae.training.objectives import negative_bound
from skevae.utils.random import lent_globals, make_generator
from skevae.vae import VAE

N_FEATURES, D = 3, 2
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)
each_posterior = pytest.mark.parametrize("posterior", POSTERIORS)

# The posteriors whose density at any z is a matrix product; a flow has to be inverted for it.
CLOSED_FORMS = ("fixed", "diagonal")

# What depends on the draws is a function of the parameters, which differences can follow; chains
# only have a gradient.
VALUED = [name for name, kind in PARTITIONS.items() if not issubclass(kind, ChainPartition)]
CHAINS = [name for name in PARTITIONS if name not in VALUED]


def stir(module, seed=0):
    source = make_generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return module


def make_density(n_hidden=4):
    density = GaussianBernoulliDensity(D, n_hidden, generator=make_generator(0)).double()
    return stir(density, seed=1)


def make_posterior(name):
    with lent_globals(make_generator(0)):
        return stir(POSTERIORS[name](D).double())


def make_model(posterior="diagonal", likelihood="gaussian", density=None):
    """VAE of linear maps, all parameters stirred."""
    p = make_likelihood(likelihood, N_FEATURES, 0.1)
    with lent_globals(make_generator(0)):
        encoder = nn.Linear(N_FEATURES, POSTERIORS[posterior].outputs_per_latent * D)
        decoder = nn.Linear(D, p.n_outputs)
    density = make_density() if density is None else density
    return VAE(encoder, decoder, make_posterior(posterior), stir(p.double()), density).double()


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=make_generator(seed), dtype=torch.float64)


def draw(model, n_draws, n_rows=5, seed=0):
    x = normals(n_rows, N_FEATURES, seed=seed)
    return model(x, normals(n_draws, n_rows, D, seed=seed + 1))


def fresh(kind, density, seed=0):
    estimate = PARTITIONS[kind](density, make_generator(seed))
    estimate.refresh()
    return estimate


def bound(draws, model, objective, partition):
    """Bound of the minibatch and its terms."""
    log_z = fresh(partition, model.density)(draws, model.posterior)
    loss, terms = negative_bound(draws, log_z, OBJECTIVES[objective])
    return -loss, terms
