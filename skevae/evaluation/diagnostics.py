"""Diagnostics of importance sampling, from the weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skevae.utils.log_mean import log_mean_exp_error


def effective_sample_size(weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of log-weights, between 1 and n_draws: (n_draws, n) -> (n,)."""
    relative = (weights - weights.amax(0)).exp()
    return relative.sum(0).square() / relative.square().sum(0)


def pareto_k(weights: Tensor) -> Tensor:
    r"""Shape of the generalised Pareto tail of importance weights.

    Below 0.5, the weights have a finite variance and the standard error is valid; above 0.7,
    neither the estimate nor its standard error is reliable (Vehtari et al. 2024, "Pareto smoothed
    importance sampling"). The fit is that of Zhang & Stephens (2009) with the weak prior of Vehtari
    et al.

    Parameters
    ----------
    weights : Tensor of shape (n_draws, n)
        Log-weights.

    Returns
    -------
    Tensor of shape (n,)
        k-hat. Minus infinity if the largest weights are equal (there is no tail), and nan with
        fewer than 25 draws, to which no tail can be fitted.
    """
    n_draws, n_rows = weights.shape
    n_tail = math.ceil(min(0.2 * n_draws, 3 * math.sqrt(n_draws)))
    if n_draws < 25:
        return weights.new_full((n_rows,), math.nan)
    # In float64: with ties among many float32 weights, the fit of the tail overflows.
    dtype, weights = weights.dtype, weights.double()
    top = weights.topk(n_tail + 1, dim=0).values
    relative = (top - top[0]).exp()
    # Ascending excesses over the largest weight outside the tail: (n_rows, n_tail).
    excess = (relative[:-1] - relative[-1]).flip(0).mT
    largest = excess[:, -1:]
    has_tail = largest > torch.finfo(weights.dtype).eps
    excess = torch.where(has_tail, excess, torch.ones_like(excess))
    quartile = excess[:, math.floor(n_tail / 4 + 0.5) - 1, None].clamp(
        min=torch.finfo(weights.dtype).tiny
    )

    n_grid = 30 + math.floor(math.sqrt(n_tail))
    grid = torch.arange(1, n_grid + 1, dtype=weights.dtype, device=weights.device)
    theta = excess[:, -1:].reciprocal() + (1 - (n_grid / (grid - 0.5)).sqrt()) / (3 * quartile)
    shape = torch.log1p(-theta[:, :, None] * excess[:, None, :]).mean(2)
    log_profile = n_tail * ((-theta / shape).log() - shape - 1)
    theta_hat = (log_profile.nan_to_num(-math.inf).softmax(1) * theta).sum(1, keepdim=True)
    k = torch.log1p(-theta_hat * excess).mean(1)
    # Prior for k = 0.5 with the weight of ten observations.
    k = (n_tail * k + 5) / (n_tail + 10)
    return torch.where(has_tail.squeeze(1), k, torch.full_like(k, -math.inf)).to(dtype)


def standard_error(weights: Tensor) -> Tensor:
    """Standard error of the log of the mean weight, by the delta method: (n_draws, n) -> (n,).

    Infinite if the effective sample size is below 2, because the variance is then unknown.
    """
    error = log_mean_exp_error(weights)
    return error.masked_fill(effective_sample_size(weights) < 2, math.inf)


# Diagnostics by name: log-weights (n_draws, n) -> (n,).
DIAGNOSTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "standard_error": standard_error,
    "effective_sample_size": effective_sample_size,
    "pareto_k": pareto_k,
}
