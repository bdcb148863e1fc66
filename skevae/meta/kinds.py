"""Kinds of the columns of a table for the members of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import _num_features

from skevae.estimators.columns import Columns
from skevae.estimators.frames import as_frame
from skevae.estimators.selection import selected

PARAMETERS = ("categorical_features", "integer_features")


def common_columns(kinds: Sequence[Any], X: Any) -> Columns | None:
    """Kinds of the columns of a DataFrame, from its dtypes; None for arrays.

    Parameters
    ----------
    kinds : sequence of unfitted density estimators
    X : array-like or DataFrame of shape (n_samples, n_features)

    Raises
    ------
    ValueError
        If some estimators compute probabilities of a column, and others densities.
    """
    know_kinds = [_knows_kinds(kind) for kind in kinds]
    columns = None
    if as_frame(X) is not None:
        categorical = "from_dtype" if any(know_kinds) else None
        columns = Columns(X, categorical, "from_dtype", "error")
    elif not any(_names_columns(kind) for kind in kinds):
        return None
    if any(know_kinds):
        _check_same_kinds(kinds, X, columns)
    return columns


def with_kinds_of(columns: Columns | None, member: Any) -> Any:
    """Fix the kinds of the columns, which would otherwise depend on the rows of a fold."""
    if columns is not None:
        for parameter, mask in zip(PARAMETERS, _masks(columns), strict=True):
            if isinstance(getattr(member, parameter, None), str):
                member.set_params(**{parameter: mask.tolist()})
    return member


def _check_same_kinds(kinds: Sequence[Any], X: Any, columns: Columns | None) -> None:
    discrete = np.array([_discrete(kind, X, columns) for kind in kinds])
    mixed = np.flatnonzero(discrete.any(axis=0) & ~discrete.all(axis=0))
    if len(mixed):
        j = int(mixed[0])
        of_column = discrete[:, j].tolist()
        name = f"column {j}" if columns is None else columns.name(j)
        raise ValueError(
            f"For {name} of X, estimator={kinds[of_column.index(True)]!r} computes probabilities "
            f"of categories or integers, and estimator={kinds[of_column.index(False)]!r} "
            "densities. They cannot be averaged. Convert such columns to float, name the same "
            "columns for all estimators, or leave out one of these."
        )


def _discrete(kind: Any, X: Any, columns: Columns | None) -> np.ndarray:
    """Mask of the columns of which an estimator computes probabilities."""
    if hasattr(kind, "_kinds"):  # an ensemble, whose members agree
        return _discrete(kind._kinds[0], X, columns)
    n_columns = _num_features(X) if columns is None else columns.n_columns
    names = None if columns is None else columns.names
    by_dtype = np.zeros((2, n_columns), bool) if columns is None else _masks(columns)
    mask = np.zeros(n_columns, bool)
    for parameter, of_dtype in zip(PARAMETERS, by_dtype, strict=True):
        given = getattr(kind, parameter, None)
        mask |= of_dtype if isinstance(given, str) else selected(given, parameter, n_columns, names)
    return mask


def _masks(columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    return columns.n_categories > 0, columns.integer


def _knows_kinds(kind: Any) -> bool:
    """Whether an estimator can compute probabilities of categories or integers."""
    return any(getattr(member, PARAMETERS[1], None) is not None for member in _members(kind))


def _names_columns(kind: Any) -> bool:
    """Whether parameters of an estimator name columns, for which X need not be a DataFrame."""
    return any(
        not isinstance(getattr(member, parameter, None), str | None)
        for member in _members(kind)
        for parameter in PARAMETERS
    )


def _members(kind: Any) -> Sequence[Any]:
    return kind._kinds if hasattr(kind, "_kinds") else [kind]
