"""Conversion of tables of any container to numbers, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from skevae.estimators.base import (
    TorchDensityEstimator,
    as_array_like,
    refuse_unreadable,
)
from skevae.estimators.bounds import Bounds
from skevae.estimators.columns import Columns
from skevae.estimators.frames import as_frame
from skevae.utils.memory import n_present
from skevae.utils.ranks import ALONE, Ranks

NUMBERS: dict[str, Any] = {"dtype": [np.float64, np.float32], "ensure_all_finite": "allow-nan"}


class Tables(TorchDensityEstimator):
    """An estimator for tables with categories, integers and missing entries."""

    categorical_features: Any
    integer_features: Any
    handle_unknown: str
    bounds: Any
    _bounds: Bounds
    n_features_in_: int
    _columns: Columns

    def _check_rows(
        self, X: Any, *, reset: bool = False, min_samples: int = 1, ranks: Ranks = ALONE
    ) -> np.ndarray:
        """Turn X into numbers, with nan for missing entries: float32 or float64.

        Bounded columns are mapped to the real line. With ``reset``, the kinds of the columns are
        determined from X, over all ``ranks``.
        """
        rows = self._numbers(X, reset, min_samples, ranks)
        if reset:
            self._check_columns_have_values(ranks.total(n_present(rows)), "X")
            self._bounds = Bounds(self.bounds, self._columns)
        return self._bounds.forward(rows)

    def _like_x(self, rows: np.ndarray) -> Any:
        """Turn numbers, in which bounded columns are mapped, into rows like those of `fit`."""
        return self._columns.rows(self._bounds.backward(rows))

    def _numbers(self, X: Any, reset: bool, min_samples: int, ranks: Ranks) -> np.ndarray:
        """Turn X into numbers on its own scale."""
        refuse_unreadable(X)
        X = as_array_like(X)
        size = {"ensure_min_samples": min_samples}
        if reset:
            kinds = (self.categorical_features, self.integer_features)
            named = any(kind is not None and not isinstance(kind, str) for kind in kinds)
            if as_frame(X) is None and not named:
                rows = self._validated(X, reset=True, ensure_all_finite="allow-nan", **size)
                self._columns = Columns(rows, None, None, self.handle_unknown, ranks)
                return rows
            self._columns = Columns(_table(X), *kinds, self.handle_unknown, ranks)
        if self._columns.are_numbers:
            self._columns.check_objects(X)
            rows = self._validated(X, reset=reset, ensure_all_finite="allow-nan", **size)
        else:
            table = _table(X)
            validate_data(self, table, skip_check_array=True, reset=reset)
            rows = self._columns.numbers(table)
            rows = check_array(rows, estimator=self, input_name="X", **NUMBERS, **size)
        return rows

    def _check_columns_have_values(self, counts: np.ndarray, rows: str) -> None:
        empty = counts == 0
        if empty.any():
            raise ValueError(
                f"{rows} has no value in {self._columns.name(int(empty.argmax()))}: all its "
                "entries are missing. Drop this column."
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _table(X: Any) -> Any:
    """Return a DataFrame unchanged, and anything else as a 2-D array."""
    if as_frame(X) is not None:
        return X
    if isinstance(X, list | tuple):
        # As objects, since NumPy would turn numbers beside strings into strings.
        X = np.asarray(X, dtype=object)
    return check_array(X, dtype=None, ensure_all_finite=False)
