"""What every likelihood p(x | z) is: what the decoder's outputs mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Likelihood(nn.Module):
    """Base of the likelihoods. The decoder returns k ``outputs`` for each feature.

    Parameters
    ----------
    n_features : int
    min_scale : float
        Lower bound of every scale, in standard deviations of the feature. Without one the density
        of a discrete column has no maximum.

    Attributes
    ----------
    outputs_per_feature : int
        k.
    is_continuous : bool
        Whether it is a density, which changes with the scale of X, or a probability mass.
    """

    outputs_per_feature: int
    is_continuous: bool

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__()
        self.min_scale = min_scale

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        """ln p(x | z) in nats: (n, n_features), (..., n, k n_features) -> (..., n)."""
        raise NotImplementedError

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z]: (..., k n_features) -> (..., n_features)."""
        raise NotImplementedError

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given z: (..., k n_features) -> (..., n_features)."""
        raise NotImplementedError
