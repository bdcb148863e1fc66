"""Gaussian likelihood with one learned scale for each feature."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor, nn

from skevae.energies import LOG_2PI
from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.networks.scales import positive
from skevae.utils.random import standard_normal

# Lower bound of a decoded scale; without it, the density of a discrete column has no maximum.
MIN_SCALE_CONSTRAINT: list[Any] = [Interval(Real, 0, None, closed="neither")]


def normal_log_density(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(x; mean, diag(scale^2)): (..., n_features) -> (...)."""
    per_feature = -0.5 * ((x - mean) / scale).square() - scale.log()
    return per_feature.sum(-1) - 0.5 * x.shape[-1] * LOG_2PI


def feature_normal_log_density(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(x_j; mean_j, scale_j^2) of each feature: (..., n_features) -> (..., n_features)."""
    return -0.5 * ((x - mean) / scale).square() - scale.log() - 0.5 * LOG_2PI


class Gaussian(Likelihood):
    """p(x | z) = N(mean(z), diag(scale^2)), one learned scale for each feature."""

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__(n_features, n_outputs=n_features)
        self.min_scale = min_scale
        self.raw_scale = nn.Parameter(torch.zeros(n_features))

    def _scale(self) -> Tensor:
        return self.min_scale + positive(self.raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return normal_log_density(x, outputs, self._scale())

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return feature_normal_log_density(x, outputs, self._scale())

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return outputs + self._scale() * standard_normal(outputs.shape, generator, outputs)


class GaussianLikelihood(LikelihoodFamily):
    """Gaussian with a decoded mean and one learned scale for each feature.

    Parameters
    ----------
    min_scale : float, default=0.01
        Lower bound of the scales, in standard deviations of each feature (in units of X with
        ``standardize=False``).

    Examples
    --------
    >>> from skevae import EnergyVAE
    >>> from skevae.likelihoods import GaussianLikelihood
    >>> vae = EnergyVAE(likelihood=GaussianLikelihood(min_scale=0.05))
    >>> vae.get_params()["likelihood__min_scale"]
    0.05
    """

    _parameter_constraints: dict[str, list[Any]] = {"min_scale": MIN_SCALE_CONSTRAINT}

    def __init__(self, *, min_scale=0.01):
        self.min_scale = min_scale

    def make_likelihood(self, n_features: int) -> Gaussian:
        return Gaussian(n_features, self.min_scale)
