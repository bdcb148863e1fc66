r"""Columns with bounded support: a fixed monotone map to the real line, with its exact Jacobian.

.. math::
    u = \ln(x - a) \text{ on } (a, \infty), \qquad u = -\ln(b - x) \text{ on } (-\infty, b), \qquad
    u = \ln \frac{x - a}{b - x} \text{ on } (a, b).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit, log_expit

from skevae.estimators.columns import Columns
from skevae.estimators.streams import from_stream
from skevae.utils.memory import piece_slices, stays_in_file


class Bounds:
    """Maps of bounded columns to the real line.

    Parameters
    ----------
    bounds : mapping of column to (low, high), or None
        By name or index; None and infinity mean no bound on that side.
    columns : Columns

    Raises
    ------
    ValueError
        If a column does not exist or is not continuous, or bounds are not two increasing numbers.
    """

    columns: Columns
    low: np.ndarray
    high: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    interval: np.ndarray
    are_open: bool

    def __init__(self, bounds: Mapping[Any, Any] | None, columns: Columns) -> None:
        self.columns = columns
        self.low = np.full(columns.n_columns, -np.inf)
        self.high = np.full(columns.n_columns, np.inf)
        for name, pair in (bounds or {}).items():
            j = int(np.flatnonzero(columns.chosen([name], "bounds"))[0])
            try:
                low, high = pair
                low = -math.inf if low is None else float(low)
                high = math.inf if high is None else float(high)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"bounds of {columns.name(j)} must be (low, high), got {pair!r}."
                ) from error
            if not low < high:
                raise ValueError(f"bounds of {columns.name(j)} must ascend, got {pair!r}.")
            if columns.n_categories[j] or columns.integer[j]:
                raise ValueError(
                    f"bounds={bounds!r} names {columns.name(j)}, which is not continuous. "
                    "Remove it from bounds."
                )
            self.low[j], self.high[j] = low, high
        below, above = np.isfinite(self.low), np.isfinite(self.high)
        self.positive = np.flatnonzero(below & ~above)
        self.negative = np.flatnonzero(~below & above)
        self.interval = np.flatnonzero(below & above)
        self.are_open = not (below.any() or above.any())

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Map rows to the real line; missing entries stay missing.

        Raises
        ------
        ValueError
            If a value is not strictly inside its bounds.
        """
        if self.are_open:
            return X
        if not stays_in_file(X):
            return self._mapped(X, 0)
        # To a temporary file, as its copy in memory would be too large.
        slices = piece_slices(*X.shape)
        return from_stream(self._mapped(X[rows], rows.start) for rows in slices)

    def _mapped(self, X: np.ndarray, first: int) -> np.ndarray:
        """Map rows, of which the first is row ``first`` of the table."""
        outside = (X <= self.low) | (X >= self.high)
        if outside.any():
            row, j = np.argwhere(outside)[0]
            raise ValueError(
                f"X[{first + row}] has the value {X[row, j]:g} in {self.columns.name(j)}, which is "
                f"not strictly inside its bounds ({self.low[j]:g}, {self.high[j]:g}). Widen "
                "`bounds`."
            )
        U = X.copy()
        U[:, self.positive] = np.log(X[:, self.positive] - self.low[self.positive])
        U[:, self.negative] = -np.log(self.high[self.negative] - X[:, self.negative])
        inside, low, high = X[:, self.interval], self.low[self.interval], self.high[self.interval]
        U[:, self.interval] = np.log(inside - low) - np.log(high - inside)
        return U

    def backward(self, U: np.ndarray) -> np.ndarray:
        """Undo `forward`; values that round to a bound or overflow are moved just inside."""
        if self.are_open:
            return U
        X = U.copy()
        with np.errstate(over="ignore"):
            X[:, self.positive] = self.low[self.positive] + np.exp(U[:, self.positive])
            X[:, self.negative] = self.high[self.negative] - np.exp(-U[:, self.negative])
        low, high = self.low[self.interval], self.high[self.interval]
        X[:, self.interval] = low + (high - low) * expit(U[:, self.interval])
        first = np.nextafter(self.low.astype(X.dtype), X.dtype.type(np.inf))
        last = np.nextafter(self.high.astype(X.dtype), X.dtype.type(-np.inf))
        return X.clip(first, last)

    def log_derivatives(self, U: np.ndarray) -> np.ndarray:
        """Ln du/dx of each entry, at mapped rows; 0 for unbounded columns and missing entries."""
        result = np.zeros_like(U)
        result[:, self.positive] = -U[:, self.positive]
        result[:, self.negative] = U[:, self.negative]
        inside = U[:, self.interval]
        width = self.high[self.interval] - self.low[self.interval]
        result[:, self.interval] = -log_expit(inside) - log_expit(-inside) - np.log(width)
        return np.nan_to_num(result, nan=0.0)
