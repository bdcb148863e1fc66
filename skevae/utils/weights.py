"""Weights of rows, which are stored in the last column of the rows during training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from skevae.utils.arrays import from_torch
from skevae.utils.ranks import ALONE, Ranks

# How far below the lowest value a quantile is that has no value below it.
MARGIN = 1e-3


def checked_weights(sample_weight: Any, X: np.ndarray, ranks: Ranks = ALONE) -> np.ndarray | None:
    """Validate the weights of rows: (n,) float64 with mean 1 over positive weights, or None.

    The mean is over the rows of all ranks; X is a part of them.

    Raises
    ------
    ValueError
        If weights are negative or not finite, all are 0, or their number is not that of the rows.
    """
    if sample_weight is None:
        return None
    sample_weight = from_torch(sample_weight, "sample_weight")
    weights = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True, copy=True
    )
    # In two steps, so that the sum of large weights does not overflow.
    weights = weights / max(ranks.gather(weights.max()))
    # Training uses float32, in which smaller weights are 0.
    weights[weights < np.finfo(np.float32).tiny] = 0.0
    present = weights[weights > 0]
    return weights / (ranks.total(present.sum()) / ranks.total(len(present)))


def rows_with_weight(
    X: np.ndarray, weights: np.ndarray, min_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Drop rows with weight 0.

    Raises
    ------
    ValueError
        If fewer than ``min_samples`` rows are left.
    """
    present = weights > 0
    if present.sum() < min_samples:
        raise ValueError(
            f"sample_weight is above 0 for {present.sum()} row{'s' * (present.sum() != 1)}, and a "
            f"minimum of {min_samples} is required."
        )
    return X[present], weights[present]


def packed(rows: Tensor, weights: np.ndarray | None) -> Tensor:
    """Rows with their weights, if there are any, in the last column: (n, d) -> (n, d + 1)."""
    if weights is None:
        return rows
    return torch.cat([rows, torch.from_numpy(weights).to(rows)[:, None]], 1)


def unpacked(rows: Tensor, weighted: bool) -> tuple[Tensor, Tensor | None]:
    """Separate rows and weights."""
    return (rows[:, :-1], rows[:, -1]) if weighted else (rows, None)


def by_weight(weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """Indices of ``n`` rows by systematic resampling, row i about n w_i / sum(w) times.

    Parameters
    ----------
    weights : Tensor of shape (n_rows,)
    n : int
    generator : torch.Generator, optional
        With a generator, the expected number of times is exactly n w_i / sum(w).

    Returns
    -------
    Tensor of int of shape (n,), in ascending order
    """
    cumulative = weights.double().cumsum(0)
    comb = torch.arange(n, dtype=torch.float64, device=weights.device)
    if generator is None:
        comb += 0.5
    else:
        comb += torch.rand((), generator=generator, dtype=torch.float64, device=weights.device)
    comb /= n
    chosen = torch.searchsorted(cumulative, comb * cumulative[-1], right=True)
    return chosen.clamp(max=len(weights) - 1)


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of values, (..., n), with weights, (n,), that have mean 1 over all rows: scalar."""
    return values.mean() if weight is None else (values * weight).mean()


def mean_score(scores: np.ndarray, sample_weight: Any) -> float:
    """Mean of the scores of rows, (n,), weighted by the user's weights if there are any."""
    weights = checked_weights(sample_weight, scores[:, None])
    if weights is None:
        return float(scores.mean())
    # The score of a row with weight 0 may be minus infinity.
    present = weights > 0
    return float(np.average(scores[present], weights=weights[present]))


def weighted_average(values: Tensor, weight: Tensor | None) -> float:
    """Weighted average of values, (n,); the weights need not have mean 1."""
    if weight is None:
        return values.mean().item()
    return ((values * weight).sum() / weight.sum()).item()


def separating_quantile(values: np.ndarray, level: float, weights: np.ndarray | None) -> float:
    """Compute a number with at most a share ``level`` of the weight below it.

    For n equal weights, ``level * n`` of the values, rounded down, are lower. A weight of 2 is the
    same as the value twice, a weight of 0 as its absence. The number is halfway between two values,
    so that no value is on the other side of it because of rounding.

    Parameters
    ----------
    values : ndarray of shape (n,)
    level : float in [0, 1)
    weights : ndarray of shape (n,) or None
        None means equal weights.
    """
    weights = np.ones(len(values)) if weights is None else weights
    values, weights = values[weights > 0], weights[weights > 0]
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    share = total / total[-1]
    # The tolerance is for rounding: 0.29 * 100 is 28.999999999999996.
    above = float(values[order[np.searchsorted(share, level + 1e-12, side="right")]])
    below = float(np.max(values, initial=-np.inf, where=values < above))
    return (above + below) / 2 if np.isfinite(below) else above - MARGIN
