"""Standardisation: conversion between rows of X and the inputs of a module."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import DTypeLike
from sklearn.preprocessing import StandardScaler
from sklearn.preprocessing._data import _handle_zeros_in_scale, _is_constant_feature
from torch import Tensor

from skevae.utils.memory import by_row, has_holes, n_present, piece_slices, pieces
from skevae.utils.moments import Moments, pooled_moments
from skevae.utils.ranks import ALONE, Ranks


def as_tensor(rows: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy an array, which may be read-only or have negative strides, to a device."""
    return torch.tensor(np.ascontiguousarray(rows), device=device, dtype=dtype)


# Limit for standardised values, whose squares are summed in evaluations.
MAX_FLOAT32_DEVIATIONS = 1e15
MAX_DEVIATIONS = 1e140

# With a standard deviation of fewer spacings of floating-point numbers, it has less than two
# digits.
MIN_STEPS = 100


class Standardizer:
    """Conversion between rows of X and the inputs of a module, with its Jacobian.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Missing entries are nan, and are ignored.
    enabled : bool or ndarray of bool of shape (n_features,)
        Whether columns are centred and scaled to unit variance (constant columns are only centred,
        as in scikit-learn), or left unchanged.
    continuous : ndarray of bool of shape (n_features,), optional
        Columns with a density, which depends on their scale; the others have probabilities. By
        default, all columns.
    sample_weight : ndarray of shape (n,), optional
    ranks : Ranks, optional
        The ranks that hold the rows, a part each.

    Attributes
    ----------
    centre, spread : ndarray of shape (n_features,)
        Mean and standard deviation of each column.
    fill : ndarray of shape (n_features,)
        Mean of each column in standardised coordinates.
    log_spread : ndarray of shape (n_features,)
        ln spread of columns with a density, else 0.
    log_volume : float
        Sum of ``log_spread``: ln of the volume of the scaling.

    Raises
    ------
    ValueError
        If values of X are so large that their variance overflows.
    """

    centre: np.ndarray
    spread: np.ndarray
    fill: np.ndarray
    log_spread: np.ndarray

    def __init__(
        self,
        X: np.ndarray,
        enabled: bool | np.ndarray,
        continuous: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        n_features = X.shape[1]
        scaled = np.broadcast_to(enabled, n_features)
        self.centre, self.spread = np.zeros(n_features), np.ones(n_features)
        self.fill = np.zeros(n_features)
        deviation = np.full(n_features, np.nan)
        if scaled.any():
            with np.errstate(over="ignore", invalid="ignore"):
                moments = ranks.moments(moments_of(X, sample_weight))
                mean, variance, scale = *moments[:2], scale_of(moments)
            deviation[scaled] = np.sqrt(variance)[scaled]
            self.centre = np.where(scaled, mean, 0.0)
            self.spread = np.where(scaled, scale, 1.0)
        if not scaled.all():
            self.fill[~scaled] = column_means(X, ~scaled, ranks)
        extreme = ~(np.isfinite(self.centre) & np.isfinite(self.spread)) | np.isinf(deviation)
        if extreme.any():
            raise ValueError(
                f"X has values too large to be standardised: the variance of column "
                f"{extreme.argmax()} overflows. Scale X down first."
            )
        self._warn_of_narrow(X, deviation, ranks)
        self.log_spread = np.log(self.spread)
        if continuous is not None:
            self.log_spread[~continuous] = 0.0

    @property
    def log_volume(self) -> float:
        return float(self.log_spread.sum())

    def _warn_of_narrow(self, X: np.ndarray, deviation: np.ndarray, ranks: Ranks) -> None:
        """Warn about columns whose spread is too small, absolutely or relative to their mean.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
        deviation : ndarray of shape (n_features,)
            Standard deviation; nan for columns that are left unchanged.
        ranks : Ranks
        """
        # scikit-learn does not scale columns whose variance may consist of rounding errors.
        constant = (self.spread == 1) & (np.abs(deviation - 1) > 0.5)
        steps = np.spacing(np.abs(self.centre).astype(X.dtype))
        chosen = np.flatnonzero(constant | (deviation < MIN_STEPS * steps))
        low = np.fmin.reduce(ranks.gather(np.fmin.reduce(X[:, chosen])))
        high = np.fmax.reduce(ranks.gather(np.fmax.reduce(X[:, chosen])))
        for j, width in zip(chosen[low < high], (high - low)[low < high], strict=True):
            # Smaller squares are subnormal numbers.
            if width < np.sqrt(np.finfo(np.float64).tiny):
                message = (
                    f"The variance of column {j} of X underflows, so it counts as constant. "
                    "Scale X up first."
                )
            else:
                message = (
                    f"Column {j} of X is narrow and far from zero (mean {self.centre[j]:g}, "
                    f"standard deviation {deviation[j]:g}), where {X.dtype} numbers are "
                    f"{steps[j]:g} apart"
                    f"{', so it counts as constant' if constant[j] else ''}. Subtract a constant "
                    "near the mean from it, in the precision it was measured in."
                )
            warnings.warn(message, UserWarning, stacklevel=2)
            return

    def row_log_jacobians(self, X: np.ndarray) -> np.ndarray:
        """Minus the sum of ``log_spread`` over the observed entries of each row: (n,)."""
        if not has_holes(X):
            return np.full(len(X), -self.log_spread.sum())
        return by_row(lambda part: -np.where(np.isnan(part), 0.0, self.log_spread).sum(1), X)

    def tensor(self, X: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Standardised rows on the device."""
        result = torch.empty(X.shape, dtype=dtype, device=device)
        for part in piece_slices(*X.shape):
            # Centred in float64: a column near 1e6 would lose digits in float32.
            rows = X[part] - self.centre
            rows /= self.spread
            result[part] = torch.from_numpy(rows)
        return result

    def rows(self, z: Tensor, dtype: DTypeLike | None = None) -> np.ndarray:
        """Undo the standardisation; the result has the dtype of ``z`` if none is given."""
        values = z.cpu().numpy()
        if not self.centre.any() and (self.spread == 1).all():
            return values.astype(values.dtype if dtype is None else dtype)
        # In place: NumPy multiplies arrays of two dtypes three times as slowly.
        result = values.astype(np.float64)
        result *= self.spread
        result += self.centre
        return result.astype(values.dtype if dtype is None else dtype, copy=False)

    def in_reach(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find values whose squares would overflow after standardisation.

        Returns
        -------
        X : ndarray of shape (n, n_features)
            Converted to float64 if float32 would overflow.
        beyond : ndarray of bool of shape (n, n_features)
            Values whose squares also overflow in float64.
        """
        with np.errstate(over="ignore"):
            largest = by_row(
                lambda part: np.fmax.reduce(np.abs((part - self.centre) / self.spread), axis=1), X
            )
            # A mask that needs no memory, if no values are too large.
            beyond = np.broadcast_to(np.array(False), X.shape)
            if (largest > MAX_DEVIATIONS).any():
                beyond = np.abs((X - self.centre) / self.spread) > MAX_DEVIATIONS
        if X.dtype == np.float32 and (largest > MAX_FLOAT32_DEVIATIONS).any():
            X = X.astype(np.float64)
        return X, beyond


def moments_of(X: np.ndarray, sample_weight: np.ndarray | None) -> Moments:
    """Mean, variance and count of each column, in float64, piece by piece.

    Weighted rows are counted by their weights.
    """
    parts = []
    for rows in piece_slices(*X.shape):
        weights = None if sample_weight is None else sample_weight[rows]
        if weights is None or weights.any():
            part = X[rows].astype(np.float64, copy=False)
            scaler = StandardScaler().fit(part, sample_weight=weights)
            # The weighted variance of a constant column can be negative by rounding.
            variance = np.maximum(scaler.var_, 0.0)
            parts.append((scaler.mean_, variance, np.float64(scaler.n_samples_seen_)))
    return pooled_moments(parts)


def scale_of(moments: Moments) -> np.ndarray:
    """Standard deviation of each column, 1 for constant columns."""
    mean, variance, count = moments
    constant = _is_constant_feature(variance, mean, count)
    return _handle_zeros_in_scale(np.sqrt(variance), copy=True, constant_mask=constant)


def column_means(X: np.ndarray, columns: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Mean of the observed entries, in float64, of the columns in a mask."""
    sums = np.zeros(int(columns.sum()))
    for piece in pieces(X):
        sums += np.nansum(piece[:, columns], axis=0, dtype=np.float64)
    return np.asarray(ranks.total(sums) / ranks.total(n_present(X))[columns])
