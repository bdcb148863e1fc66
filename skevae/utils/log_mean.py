"""Logarithm of the mean of weights, from their logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    """ln of the mean of exp(log_weights) along ``dim``."""
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


def log_mean_exp_error(log_weights: Tensor, dim: int = 0) -> Tensor:
    """Standard error of `log_mean_exp` by the delta method: sd(w) / (mean(w) sqrt(n)).

    Infinite for a single weight, whose variance is unknown.
    """
    n = log_weights.shape[dim]
    if n < 2:
        return torch.full_like(log_weights.select(dim, 0), math.inf)
    # Relative to the largest weight, which is exact, unlike the logarithm of a sum.
    weights = (log_weights - log_weights.amax(dim, keepdim=True)).exp()
    return weights.std(dim) / (weights.mean(dim) * math.sqrt(n))
