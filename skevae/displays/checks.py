"""Checks of the arguments of displays, made before anything is drawn."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from skevae.utils.constraints import at_least


def check_estimator(estimator: Any, methods: list[str], caller: str, remedy: str) -> None:
    """Raise unless an estimator is fitted and has the methods that a display calls.

    Parameters
    ----------
    estimator : estimator
    methods : list of str
    caller : str
        Name of the display, for messages.
    remedy : str
        Text that tells what to pass instead of an estimator without these methods.

    Raises
    ------
    NotFittedError
        If it is not fitted (a ValueError).
    TypeError
        If it is not an estimator, or lacks one of the methods.
    """
    check_is_fitted(estimator)
    for method in methods:
        if not hasattr(estimator, method):
            raise TypeError(
                f"{caller} calls `{method}` of the estimator, which {type(estimator).__name__} "
                f"does not have. {remedy}"
            )


def check_options(caller: str, constraints: dict[str, list[Any]], **values: Any) -> None:
    """Raise a ValueError that names the parameter and its valid values."""
    validate_parameter_constraints(constraints, values, caller_name=caller)


def column_positions(
    features: Any, names: list[str], parameter: str, caller: str, labels: list[Any] | None = None
) -> list[int]:
    """Positions of the selected columns.

    Parameters
    ----------
    features : int or array-like of int or str
        A maximum number of columns (the first ones), or a list of indices or names.
    names : list of str
        Names of all columns.
    parameter, caller : str
        For messages.
    labels : list, default=None
        Names that ``features`` may use for the columns. None is ``names``.

    Raises
    ------
    TypeError
        If ``features`` is neither a number nor a list.
    ValueError
        If it names a column twice, or an unknown column.
    """
    labels = names if labels is None else labels
    n_columns = len(names)
    if isinstance(features, Integral) and not isinstance(features, bool):
        check_options(caller, {parameter: [at_least(1)]}, **{parameter: features})
        return list(range(min(int(features), n_columns)))
    if isinstance(features, str | bool) or np.ndim(features) != 1 or len(features) == 0:
        raise TypeError(
            f"{parameter}={features!r} of {caller} must be a number of columns, or a list of "
            "their indices or names."
        )
    chosen = []
    for item in features:
        known = isinstance(item, str) and item in labels
        index = labels.index(item) if known else item
        if not isinstance(index, int | np.integer) or not -n_columns <= index < n_columns:
            raise ValueError(
                f"{parameter}={features!r} of {caller} names {item!r}, which is none of the "
                f"{n_columns} columns ({', '.join(names)})."
            )
        chosen.append(int(index) % n_columns)
    if len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{parameter}={features!r} of {caller} names a column twice. Name each once."
        )
    return chosen
