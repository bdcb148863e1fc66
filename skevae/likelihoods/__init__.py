"""Likelihoods p(x | z), one file each."""

from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.likelihoods.bernoulli import BernoulliLikelihood
from skevae.likelihoods.gaussian import GaussianLikelihood
from skevae.likelihoods.gaussian_rowwise import RowwiseGaussianLikelihood
from skevae.likelihoods.mixture import GaussianMixtureLikelihood

__all__ = [
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "GaussianLikelihood",
    "GaussianMixtureLikelihood",
    "Likelihood",
    "LikelihoodFamily",
    "RowwiseGaussianLikelihood",
]

LIKELIHOODS: dict[str, type[LikelihoodFamily]] = {
    "gaussian": GaussianLikelihood,
    "gaussian-rowwise": RowwiseGaussianLikelihood,
    "gaussian-mixture": GaussianMixtureLikelihood,
    "bernoulli": BernoulliLikelihood,
}
