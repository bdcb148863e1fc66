"""The training rows: in the memory of the device, or in a file until a step needs them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from skevae.estimators.standardizer import MAX_FLOAT32_DEVIATIONS, Standardizer
from skevae.utils.memory import (
    by_row,
    memory_budget,
    piece_slices,
    pieces,
    row_slices,
    stays_in_file,
)
from skevae.utils.ranks import Ranks
from skevae.utils.weights import packed

# Limits for the number of rows of a file from which a model is initialised: as many rows as fit
# into 1/16 of the memory budget, clipped to these limits.
INITIAL_ROWS = 1_000, 50_000


class MappedRows:
    """Rows of a memory-mapped file, with the interface of a Tensor that training needs.

    Rows are read, standardised and moved to the device on request; only their indices are stored.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
    standardizer : Standardizer
    device : torch.device
    weights : ndarray of shape (n,), optional
        Added as the last column.
    chosen : ndarray of int, optional
        Indices of the rows of X, in order. By default, all rows.
    """

    def __init__(
        self,
        X: np.ndarray,
        standardizer: Standardizer,
        device: torch.device,
        weights: np.ndarray | None = None,
        chosen: np.ndarray | None = None,
    ) -> None:
        self.X, self.standardizer, self.device = X, standardizer, device
        self.weights = weights
        self.chosen = np.arange(len(X)) if chosen is None else chosen
        self.dtype = torch.float32
        self.shape = (len(self.chosen), X.shape[1] + (weights is not None))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> MappedRows:
        """Select some of the rows."""
        chosen = self.chosen[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        return MappedRows(self.X, self.standardizer, self.device, self.weights, chosen)

    def weighted(self, weights: np.ndarray | None) -> MappedRows:
        """Add weights, if there are any, as the last column."""
        return MappedRows(self.X, self.standardizer, self.device, weights, self.chosen)

    def tensor(self) -> Tensor:
        """All rows, as a tensor on the device."""
        result = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for part in piece_slices(*self.shape):
            result[part] = self._take(self.chosen[part])
        return result

    def split(self, n_at_once: int) -> Iterator[Tensor]:
        """Rows in order, as tensors of at most ``n_at_once`` rows."""
        for part in row_slices(len(self), n_at_once):
            yield self._take(self.chosen[part])

    def minibatches(self, order: Tensor, sizes: list[int]) -> Iterator[Tensor]:
        """Rows in the given order, as tensors of the given sizes."""
        # Copied at once, because each copy from the device would wait for the preceding steps.
        for part in order.cpu().split(sizes):
            yield self._take(self.chosen[part.numpy()])

    def _take(self, index: np.ndarray) -> Tensor:
        rows = self.standardizer.tensor(self.X[index], self.device, self.dtype)
        return packed(rows, None if self.weights is None else self.weights[index])


Rows = Tensor | MappedRows


def rows_to_train(X: np.ndarray, standardizer: Standardizer, device: torch.device) -> Rows:
    """Standardised rows in float32, as used by the module.

    Raises
    ------
    ValueError
        If squares of values exceed the range of float32, which is smaller than that of float64.
    """
    rows: Rows
    if stays_in_file(X):
        rows = MappedRows(X, standardizer, device)
        too_large = any(
            _out_of_range(standardizer.tensor(part, device, torch.float32)) for part in pieces(X)
        )
    else:
        rows = standardizer.tensor(X, device, torch.float32)
        too_large = any(_out_of_range(rows[part]) for part in piece_slices(*X.shape))
    if too_large:
        largest = np.nanmax(by_row(lambda part: np.fmax.reduce(np.abs(part), axis=1), X))
        raise ValueError(
            f"X has values as large as {largest:g}. After standardisation, if enabled, their "
            "squares exceed the range of float32, which is used in training. Scale X down first, "
            "or fit a new model to these rows."
        )
    return rows


def _out_of_range(rows: Tensor) -> bool:
    return bool((rows.abs() > MAX_FLOAT32_DEVIATIONS).any())


def with_weights(rows: Rows, weights: np.ndarray | None) -> Rows:
    """Rows with their weights, if there are any, in the last column."""
    return packed(rows, weights) if isinstance(rows, Tensor) else rows.weighted(weights)


def normalised(rows: Rows, ranks: Ranks) -> Rows:
    """Divide the weights, in the last column, by their mean over all ranks, maybe in place."""
    if isinstance(rows, Tensor):
        rows[:, -1] /= _mean(rows[:, -1], ranks)
        return rows
    assert rows.weights is not None
    return rows.weighted(rows.weights / _mean(rows.weights[rows.chosen], ranks))


def _mean(values: Tensor | np.ndarray, ranks: Ranks) -> float:
    return ranks.average(float(values.mean()) if len(values) else 0.0, len(values))


def in_memory(rows: Rows) -> Tensor:
    """All of the rows as a tensor."""
    return rows if isinstance(rows, Tensor) else rows.tensor()


def initial_rows(rows: Rows) -> Tensor:
    """Rows from which a model is initialised: all, or evenly spaced rows of a file."""
    if isinstance(rows, Tensor):
        return rows
    fewest, most = INITIAL_ROWS
    n_rows = min(len(rows), most, max(fewest, memory_budget() // (64 * rows.shape[1])))
    return rows[torch.arange(n_rows) * len(rows) // n_rows].tensor()
