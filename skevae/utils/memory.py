"""The memory budget, and passes over rows in chunks."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn import get_config

# Temporaries of about this size fit into the outer cache of a processor; larger ones are slower.
CACHE_BYTES = 2**23


def memory_budget() -> int:
    """Bytes that scikit-learn's ``working_memory`` setting allows for temporaries."""
    return max(1, math.floor(get_config()["working_memory"] * 2**20))


def row_slices(n_rows: int, n_at_once: int) -> Iterator[slice]:
    """Split ``n_rows`` into slices."""
    for start in range(0, n_rows, n_at_once):
        yield slice(start, min(start + n_at_once, n_rows))


def rows_per_piece(n_columns: int) -> int:
    """Number of rows whose temporaries, in float64, fit into the memory budget."""
    return max(1, min(CACHE_BYTES, memory_budget()) // (8 * max(1, n_columns)))


def piece_slices(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Split rows into pieces of `rows_per_piece` rows."""
    return row_slices(n_rows, rows_per_piece(n_columns))


def pieces(X: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in such pieces."""
    return (X[rows] for rows in piece_slices(*X.shape))


def by_row(function: Callable[[np.ndarray], np.ndarray], X: np.ndarray) -> np.ndarray:
    """Concatenate the results of a function for pieces of rows, one entry per row."""
    return np.concatenate([function(piece) for piece in pieces(X)])


def has_holes(X: np.ndarray) -> bool:
    """Whether any entry is missing."""
    return any(np.isnan(piece).any() for piece in pieces(X))


def n_present(X: np.ndarray) -> np.ndarray:
    """Number of entries of each column that are not missing: (n_features,)."""
    counts = np.zeros(X.shape[1], dtype=np.int64)
    for piece in pieces(X):
        counts += len(piece) - np.isnan(piece).sum(axis=0)
    return counts


def is_mapped(X: Any) -> bool:
    """Whether an array is a view of a memory-mapped file, and not a copy."""
    while isinstance(X, np.ndarray):
        X = X.base
    return isinstance(X, mmap.mmap)


def stays_in_file(X: np.ndarray) -> bool:
    """Whether rows are read from their file, because copies would exceed the memory budget."""
    return 4 * X.size > memory_budget() and is_mapped(X)
