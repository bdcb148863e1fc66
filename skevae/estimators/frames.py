"""DataFrames of any library, and rows of them."""

from __future__ import annotations

from typing import Any

import narwhals.stable.v2 as nw
import numpy as np


def as_frame(X: Any) -> nw.DataFrame[Any] | None:
    """View a DataFrame of any library that narwhals supports; None for anything else."""
    try:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
    except nw.exceptions.DuplicateError as error:
        raise ValueError(f"X has columns of the same name ({error}). Rename them.") from error
    return frame if isinstance(frame, nw.DataFrame) else None


def with_index_of(rows: Any, X: Any) -> Any:
    """Give a pandas DataFrame the index of the table that it was computed from, if that has one."""
    frame, source = as_frame(rows), as_frame(X)
    index = None if source is None else nw.maybe_get_index(source)
    if index is not None and frame is not None and frame.implementation.is_pandas_like():
        rows.index = index
    return rows


def as_row(x: Any) -> Any:
    """Turn a row, with its feature names if it is a pandas Series, into a table with one row."""
    if isinstance(x, np.ndarray):
        return x[None]
    return x.to_frame().T if hasattr(x, "index") and hasattr(x, "to_frame") else [list(x)]
