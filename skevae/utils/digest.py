"""A hash of rows that is additive over parts of a table."""

from __future__ import annotations

import numpy as np

from skevae.utils.memory import pieces


def _mixed(words: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit words (the finaliser of splitmix64; Steele et al. 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _numbered(start: int, n: int) -> np.ndarray:
    """Return n pseudo-random words, one for each number from ``start``."""
    return _mixed(
        np.arange(start + 1, start + n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    )


def rows_digest(X: np.ndarray, start: int) -> int:
    """Hash of the bits of rows and of their positions in a table.

    Parameters
    ----------
    X : ndarray of shape (n, n_columns)
        float32 or float64.
    start : int
        Position of the first row.

    Returns
    -------
    int
        Below 2^64. The sum of the digests of parts, modulo 2^64, is the digest of the table.
    """
    columns, total = _numbered(0, X.shape[1]), 0
    for piece in pieces(X):
        bits = np.ascontiguousarray(piece).view(f"u{X.itemsize}").astype(np.uint64)
        rows = _mixed(bits + columns).sum(1, dtype=np.uint64)
        total += int(_mixed(rows + _numbered(start, len(piece))).sum(dtype=np.uint64))
        start += len(piece)
    return total % 2**64
