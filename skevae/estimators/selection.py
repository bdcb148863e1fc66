"""The columns of a table that a parameter selects."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np


def selected(given: Any, parameter: str, n_columns: int, names: Sequence[Any] | None) -> np.ndarray:
    """Mask of the columns that a parameter selects by a mask, indices or names.

    Parameters
    ----------
    given : array-like or set of bool, int or str, or None
        A mask has one entry per column. Indices and names can be mixed.
    parameter : str
        The name of the parameter, for messages.
    n_columns : int
    names : sequence of length n_columns, or None
        The names of the columns, if they have names.

    Returns
    -------
    ndarray of bool of shape (n_columns,)

    Raises
    ------
    ValueError
        If a column does not exist.
    """
    mask = np.zeros(n_columns, dtype=bool)
    items = _items(given)
    if items and all(isinstance(item, bool) for item in items):
        if len(items) != n_columns:
            raise ValueError(
                f"{parameter} is a mask of {len(items)} columns, but X has {n_columns}."
            )
        return np.array(items)
    positions = {name: j for j, name in enumerate(names or []) if isinstance(name, str)}
    for item in items:
        index = positions.get(item) if isinstance(item, str) else item
        if not isinstance(index, int) or not -n_columns <= index < n_columns:
            known = "" if names is None else f" ({', '.join(map(str, names))})"
            raise ValueError(
                f"{parameter}={given!r} names {item!r}, which is none of the "
                f"{n_columns} columns of X{known}."
            )
        mask[index] = True
    return mask


def _items(given: Any) -> list[Any]:
    if given is None:
        return []
    # NumPy would turn the numbers of a mixed list into strings.
    listed = list(given) if isinstance(given, Set | list | tuple) else given
    items = np.array(listed, dtype=object).ravel().tolist()
    return [item.item() if isinstance(item, np.generic) else item for item in items]
