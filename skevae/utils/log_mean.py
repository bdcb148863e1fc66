"""Logarithm of the mean of weights, from their logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(log_weights: Tensor, dim: int = 0) -> Tensor:
    """ln of the mean of exp(log_weights) along ``dim``."""
    return log_weights.logsumexp(dim) - math.log(log_weights.shape[dim])


def log_mean_exp_error(log_weights: Tensor) -> Tensor:
    """Standard error of `log_mean_exp` along the first dimension, by the delta method.

    It is sd(w) / (mean(w) sqrt(n)), and infinite for a single weight, whose variance is unknown.
    """
    n = len(log_weights)
    if n < 2:
        return torch.full_like(log_weights[0], math.inf)
    # Relative to the largest weight, which is exact, unlike the logarithm of a sum.
    weights = (log_weights - log_weights.amax(0)).exp()
    return weights.std(0) / (weights.mean(0) * math.sqrt(n))
