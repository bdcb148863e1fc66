"""Likelihoods p(x | z): what the decoder's outputs mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skevae._random import standard_normal
from skevae.energies import LOG_2PI
from skevae.networks import positive


def _normal_log_density(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(x; mean, diag(scale^2)): (..., n_features) -> (...)."""
    per_feature = -0.5 * ((x - mean) / scale).square() - scale.log()
    return per_feature.sum(-1) - 0.5 * x.shape[-1] * LOG_2PI


class Gaussian(nn.Module):
    """p(x | z) = N(mean(z), diag(scale^2)), one learned scale for each feature.

    Parameters
    ----------
    n_features : int
    min_scale : float
        Lower bound of every scale, in standard deviations of the feature. Without one the density
        of a discrete column has no maximum.
    """

    outputs_per_feature = 1
    is_continuous = True

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__()
        self.min_scale = min_scale
        self.raw_scale = nn.Parameter(torch.zeros(n_features))

    def _scale(self) -> Tensor:
        return self.min_scale + positive(self.raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        """ln p(x | z) in nats: (n, n_features), (..., n, outputs) -> (..., n)."""
        return _normal_log_density(x, outputs, self._scale())

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z]: (..., n_features)."""
        return outputs

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given z: (..., n_features)."""
        return outputs + self._scale() * standard_normal(outputs.shape, generator, outputs)


class RowwiseGaussian(nn.Module):
    """p(x | z) = N(mean(z), diag(scale(z)^2)): the decoder predicts the scale as well.

    Parameters
    ----------
    n_features : int
    min_scale : float
        Lower bound of every scale, in standard deviations of the feature.
    """

    outputs_per_feature = 2
    is_continuous = True

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__()
        self.min_scale = min_scale

    def _moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_scale = outputs.chunk(2, dim=-1)
        return mean, self.min_scale + positive(raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        """ln p(x | z) in nats: (n, n_features), (..., n, outputs) -> (..., n)."""
        return _normal_log_density(x, *self._moments(outputs))

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z]: (..., n_features)."""
        return outputs.chunk(2, dim=-1)[0]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given z: (..., n_features)."""
        mean, scale = self._moments(outputs)
        return mean + scale * standard_normal(mean.shape, generator, mean)


class Bernoulli(nn.Module):
    """p(x | z) = prod_i Bernoulli(x_i; sigmoid(outputs_i)), a probability mass on {0, 1}^n.

    Parameters
    ----------
    n_features : int
    min_scale : float
        Not used: a mass function is bounded by itself.
    """

    outputs_per_feature = 1
    is_continuous = False

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__()

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        """ln p(x | z) in nats: (n, n_features), (..., n, n_features) -> (..., n)."""
        return (x * outputs - F.softplus(outputs)).sum(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z], the probability of a one: (..., n_features)."""
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given z: (..., n_features) of zeros and ones."""
        return torch.bernoulli(outputs.sigmoid(), generator=generator)


def binarize(x: Tensor, thresholds: Tensor, rotation: Tensor) -> Tensor:
    """Turn probabilities into binary rows, each a fixed function of the row itself.

    Scores have to be deterministic and may not depend on which rows stand beside a row, so the
    uniform numbers come from the row: one threshold for each feature, shifted (modulo 1) by a
    number that is hashed from the row's content. Each feature is one with its probability, and
    rows that differ see different thresholds.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In [0, 1]; zeros and ones stay what they are.
    thresholds : Tensor of shape (n_features,)
        Uniform on [0, 1).
    rotation : Tensor of shape (n_features,)
        Coefficients of the hash, large against 1.
    """
    shift = (x * rotation).sum(-1, keepdim=True)
    return ((thresholds + shift).remainder(1.0) < x).to(x.dtype)


LIKELIHOODS: dict[str, type[nn.Module]] = {
    "gaussian": Gaussian,
    "gaussian-rowwise": RowwiseGaussian,
    "bernoulli": Bernoulli,
}
