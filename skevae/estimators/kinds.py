"""The kind of a column of a DataFrame, from its dtype and its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np

# Not all larger integers are float64 numbers.
LARGEST_INTEGER = 2**53


class Kind(NamedTuple):
    """Properties of a column, or of a part of its rows."""

    categorical: bool = False
    integer: bool = False  # by its dtype
    floating: bool = False  # by its dtype
    has_holes: bool = False
    has_values: bool = False
    has_fractions: bool = False


def kind_of(column: Any) -> Kind:
    """Determine the properties of a column of a DataFrame."""
    dtype = column.dtype
    if isinstance(dtype, (nw.Categorical, nw.Enum, nw.String, nw.Boolean)):
        return Kind(categorical=True)
    if isinstance(dtype, nw.Object):
        present = [v for v in column.drop_nulls().to_list() if v == v]
        return Kind(categorical=any(isinstance(v, (str, bytes, bool)) for v in present))
    if dtype.is_integer():
        return Kind(integer=True, has_values=len(column) > 0)
    if not dtype.is_float():
        return Kind()
    values = column.to_numpy()
    missing = np.isnan(values)
    present = values[~missing]
    return Kind(
        floating=True,
        has_holes=bool(missing.any()),
        has_values=len(present) > 0,
        has_fractions=bool((present != np.rint(present)).any()),
    )


def joined(parts: Sequence[Kind]) -> tuple[bool, bool]:
    """Whether a column with these parts is categorical, and whether it holds integers.

    A float column holds integers if it has only integer values and some missing values: this is how
    pandas reads integer columns with missing values.
    """
    every = Kind(*(any(values) for values in zip(*parts, strict=True)))
    if every.categorical or not every.floating:
        return every.categorical, every.integer
    return False, every.has_holes and every.has_values and not every.has_fractions


def check_integers(values: np.ndarray, name: str) -> None:
    """Raise a ValueError if an integer column has other values, or too large integers."""
    present = values[np.isfinite(values)]
    if (np.abs(present) > LARGEST_INTEGER).any():
        raise ValueError(
            f"{name} has integers beyond 2^53, which float64 cannot distinguish. "
            "Drop it, or include it in neither categorical_features nor integer_features."
        )
    odd = present[present != np.rint(present)]
    if len(odd):
        raise ValueError(
            f"{name} is an integer column, but has the value {odd[0]:g}. Change "
            "integer_features to model it as continuous."
        )
