"""Gaussian likelihood with a scale for each row and feature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.likelihoods.gaussian import (
    MIN_SCALE_CONSTRAINT,
    feature_normal_log_density,
    normal_log_density,
)
from skevae.networks.scales import positive
from skevae.utils.random import standard_normal


class RowwiseGaussian(Likelihood):
    """p(x | z) = N(mean(z), diag(scale(z)^2)): the decoder predicts the scale as well."""

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__(n_features, n_outputs=2 * n_features)
        self.min_scale = min_scale

    def _moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_scale = outputs.chunk(2, dim=-1)
        return mean, self.min_scale + positive(raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return normal_log_density(x, *self._moments(outputs))

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return feature_normal_log_density(x, *self._moments(outputs))

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.chunk(2, dim=-1)[0]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean, scale = self._moments(outputs)
        return mean + scale * standard_normal(mean.shape, generator, mean)


class RowwiseGaussianLikelihood(LikelihoodFamily):
    """Gaussian with a decoded mean and a decoded scale.

    Parameters
    ----------
    min_scale : float, default=0.01
        Lower bound of the scales, in standard deviations of each feature (in units of X with
        ``standardize=False``).

    Examples
    --------
    >>> from skevae import EnergyVAE
    >>> from skevae.likelihoods import RowwiseGaussianLikelihood
    >>> vae = EnergyVAE(likelihood=RowwiseGaussianLikelihood(min_scale=0.1))
    >>> vae.get_params()["likelihood__min_scale"]
    0.1
    """

    _parameter_constraints: dict[str, list[Any]] = {"min_scale": MIN_SCALE_CONSTRAINT}

    def __init__(self, *, min_scale=0.01):
        self.min_scale = min_scale

    def make_likelihood(self, n_features: int) -> RowwiseGaussian:
        return RowwiseGaussian(n_features, self.min_scale)
