"""Weights of rows, which travel beside them in a last column while a model is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import _check_sample_weight
from torch import Tensor

from skevae.utils.arrays import from_torch
from skevae.utils.ranks import ALONE, Ranks


def checked_weights(sample_weight: Any, X: np.ndarray, ranks: Ranks = ALONE) -> np.ndarray | None:
    """Validate the weights of rows: (n,) float64 of mean 1 over those above 0, or None.

    The mean is over all ranks, of whose rows X is a part.

    Raises
    ------
    ValueError
        If weights are negative or not finite, all are 0, or there is not one for each row.
    """
    if sample_weight is None:
        return None
    sample_weight = from_torch(sample_weight, "sample_weight")
    weights = _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True, copy=True
    )
    # In two steps, so that the sum of large weights does not overflow.
    weights /= max(ranks.gather(weights.max()))
    # Training computes in float32, in which smaller ones are 0.
    weights[weights < np.finfo(np.float32).tiny] = 0.0
    present = weights[weights > 0]
    return weights / (ranks.total(present.sum()) / ranks.total(len(present)))


def rows_with_weight(
    X: np.ndarray, weights: np.ndarray, min_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out rows of weight 0.

    Raises
    ------
    ValueError
        If fewer than ``min_samples`` rows are left.
    """
    present = weights > 0
    if present.sum() < min_samples:
        raise ValueError("sample_weight is above 0 for 1 row, and a minimum of 2 is required.")
    return X[present], weights[present]


def packed(rows: Tensor, weights: np.ndarray | None) -> Tensor:
    """Rows with their weights, if there are any, in a last column: (n, d) -> (n, d + 1)."""
    if weights is None:
        return rows
    return torch.cat([rows, torch.from_numpy(weights).to(rows)[:, None]], 1)


def unpacked(rows: Tensor, weighted: bool) -> tuple[Tensor, Tensor | None]:
    """Take rows and weights apart."""
    return (rows[:, :-1], rows[:, -1]) if weighted else (rows, None)


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of values, (..., n), whose weights, (n,), have mean 1 over all rows: scalar."""
    return values.mean() if weight is None else (values * weight).mean()


def mean_score(scores: np.ndarray, sample_weight: Any) -> float:
    """Mean of the scores of rows, (n,), by the user's weights if there are any."""
    weights = checked_weights(sample_weight, scores[:, None])
    return float(np.average(scores, weights=weights))


def weighted_average(values: Tensor, weight: Tensor | None) -> float:
    """Average of values, (n,), by weights that need not have mean 1."""
    if weight is None:
        return values.mean().item()
    return ((values * weight).sum() / weight.sum()).item()
