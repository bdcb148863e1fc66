"""Gaussian likelihoods: one scale for each feature, or one for each row and feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae.energies import LOG_2PI
from skevae.likelihoods.base import Likelihood
from skevae.networks.scales import positive
from skevae.utils.random import standard_normal


def _normal_log_density(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(x; mean, diag(scale^2)): (..., n_features) -> (...)."""
    per_feature = -0.5 * ((x - mean) / scale).square() - scale.log()
    return per_feature.sum(-1) - 0.5 * x.shape[-1] * LOG_2PI


class Gaussian(Likelihood):
    """p(x | z) = N(mean(z), diag(scale^2)), one learned scale for each feature."""

    outputs_per_feature = 1
    is_continuous = True

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__(n_features, min_scale)
        self.raw_scale = nn.Parameter(torch.zeros(n_features))

    def _scale(self) -> Tensor:
        return self.min_scale + positive(self.raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return _normal_log_density(x, outputs, self._scale())

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return outputs + self._scale() * standard_normal(outputs.shape, generator, outputs)


class RowwiseGaussian(Likelihood):
    """p(x | z) = N(mean(z), diag(scale(z)^2)): the decoder predicts the scale as well."""

    outputs_per_feature = 2
    is_continuous = True

    def _moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_scale = outputs.chunk(2, dim=-1)
        return mean, self.min_scale + positive(raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return _normal_log_density(x, *self._moments(outputs))

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.chunk(2, dim=-1)[0]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean, scale = self._moments(outputs)
        return mean + scale * standard_normal(mean.shape, generator, mean)
