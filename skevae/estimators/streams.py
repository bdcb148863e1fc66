"""Streams of rows: written to a temporary file, then used as a memory-mapped array."""

from __future__ import annotations

import errno
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from skevae.utils.arrays import from_torch

# Number of rows of a torch Dataset that are read at once.
ROWS_AT_ONCE = 4096

# Types that yield batches. A DataLoader is not an Iterator, which can only be read once.
STREAMS: dict[type, Callable[[Any], Iterable[Any]]] = {
    DataLoader: iter,
    Dataset: lambda rows: DataLoader(rows, batch_size=ROWS_AT_ONCE),
    Iterator: iter,
}


def from_stream(X: Any) -> Any:
    """Write a stream of rows to a temporary file, and memory-map it.

    Parameters
    ----------
    X : object
        A `torch.utils.data.Dataset` of rows, a `torch.utils.data.DataLoader`, or an iterator over
        batches of rows of shape (n, n_features). From tuples, such as (rows, targets), the first
        item is used. Anything else is returned unchanged.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        float32 if the batches are float32, else float64. Its file is unnamed and deleted together
        with the array.

    Raises
    ------
    ValueError
        If there are no rows, or a batch is not 2-D or differs in width or dtype from the first.
    TypeError
        If a batch does not hold numbers.
    OSError
        If the folder for temporary files is full.
    """
    batches = next((read(X) for kind, read in STREAMS.items() if isinstance(X, kind)), None)
    if batches is None:
        return X
    shape, dtype = (0, 0), None
    with tempfile.TemporaryFile(prefix="skevae-") as file:
        for batch in batches:
            rows = _numbers(batch)
            if dtype is None:
                shape, dtype = (0, rows.shape[1]), rows.dtype
            if (rows.shape[1], rows.dtype) != (shape[1], dtype):
                raise ValueError(
                    f"X is a stream whose first batch has {shape[1]} columns of {dtype}, and a "
                    f"later one {rows.shape[1]} of {rows.dtype}. All batches must agree."
                )
            if len(rows):
                _write(file, rows)
            shape = (shape[0] + len(rows), shape[1])
        if dtype is None or 0 in shape:
            raise ValueError(
                f"X is a stream of {shape[0]} rows and {shape[1]} columns. An iterator can be read "
                "only once: pass a fresh one, or a Dataset."
            )
        file.flush()
        # Unlike a numpy.memmap, it is not pickled by the name of its file, which has none.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(shape, dtype, buffer=content)


def _numbers(batch: Any) -> np.ndarray:
    """Rows of one batch: (n, n_features), float32 or float64."""
    if isinstance(batch, list | tuple) and len(batch) and np.ndim(batch[0]) == 2:
        batch = batch[0]
    rows = np.asarray(from_torch(batch, "a batch of X"))
    if rows.ndim != 2:
        raise ValueError(
            f"X is a stream, but one of its batches has the shape {rows.shape}. Batches must be "
            "of shape (n, n_features): reshape them."
        )
    if rows.dtype.kind not in "fiub":
        raise TypeError(
            f"X is a stream, but one of its batches has the dtype {rows.dtype}. Streams must hold "
            "numbers; pass tables with categories as one DataFrame."
        )
    return np.ascontiguousarray(rows, np.float32 if rows.dtype == np.float32 else np.float64)


def _write(file: Any, rows: np.ndarray) -> None:
    try:
        rows.tofile(file)
    except OSError as error:
        raise OSError(
            errno.ENOSPC,
            f"X is a stream, which is stored in a temporary file, but {tempfile.gettempdir()} is "
            f"full ({error}). Set the environment variable TMPDIR to a folder with more space",
        ) from error
