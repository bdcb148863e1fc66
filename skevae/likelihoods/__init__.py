"""Likelihoods p(x | z): a file each."""

from __future__ import annotations

from skevae.likelihoods.base import Likelihood
from skevae.likelihoods.bernoulli import Bernoulli
from skevae.likelihoods.gaussian import Gaussian, RowwiseGaussian
from skevae.likelihoods.mixture import GaussianMixture

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian-rowwise": RowwiseGaussian,
    "gaussian-mixture": GaussianMixture,
    "bernoulli": Bernoulli,
}
