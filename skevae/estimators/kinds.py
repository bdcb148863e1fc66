"""What a column of a table is taken for, by its dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np


def kind_of(column: Any) -> Sequence[bool]:
    """Whether a column is categorical, and whether it holds integers, by its dtype."""
    dtype = column.dtype
    if isinstance(dtype, (nw.Categorical, nw.Enum, nw.String, nw.Boolean)):
        return True, False
    if isinstance(dtype, nw.Object):
        present = [v for v in column.drop_nulls().to_list() if v == v]
        return any(isinstance(v, (str, bytes, bool)) for v in present), False
    if dtype.is_integer():
        return False, True
    if dtype.is_float():
        return False, _holds_integers_with_holes(column.to_numpy())
    return False, False


def _holds_integers_with_holes(values: np.ndarray) -> bool:
    """Whether floats are integers with missing entries, as which pandas reads such columns."""
    missing = np.isnan(values)
    present = values[~missing]
    return bool(missing.any() and len(present) and (present == np.rint(present)).all())
