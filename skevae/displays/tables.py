"""Columns of any table, as drawn by displays: numbers with nan, or categories."""

from __future__ import annotations

from typing import Any, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from sklearn.utils import check_array

from skevae.displays.checks import column_positions


class Column(NamedTuple):
    """One column of a table.

    Attributes
    ----------
    name : str
    values : ndarray of shape (n_samples,)
        float with nan for missing entries; for categories, object with None.
    categories : list or None
        Ordered categories of a categorical column; None for numbers.
    is_continuous : bool
        Whether it holds numbers that are not declared integers.
    """

    name: str
    values: np.ndarray
    categories: list[Any] | None
    is_continuous: bool


class Table:
    """A table in any container, read column by column.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_samples, n_features)

    Attributes
    ----------
    names : list of str
        Names of the columns. For an array, "column 0", "column 1" and so on.
    n_rows : int
    """

    def __init__(self, X: Any) -> None:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
        self.frame: Any = frame if isinstance(frame, nw.DataFrame) else None
        if self.frame is None:
            if isinstance(X, np.ma.MaskedArray):
                X = np.ma.filled(X.astype(float), np.nan)
            self.array = check_array(X, dtype=None, ensure_all_finite=False, input_name="X")
            self.n_rows, n_columns = self.array.shape
            self.labels: list[Any] = list(range(n_columns))
            self.names = [f"column {j}" for j in range(n_columns)]
        else:
            self.n_rows = len(self.frame)
            self.labels = list(self.frame.columns)
            self.names = [str(name) for name in self.labels]

    def positions(self, features: Any, caller: str) -> list[int]:
        """Positions of the columns that ``features`` selects."""
        return column_positions(features, self.names, "features", caller, self.labels)

    def column(self, j: int) -> Column:
        """Read one column."""
        if self.frame is None:
            return _column_of_array(self.names[j], self.array[:, j])
        series = self.frame[:, j]
        dtype = series.dtype
        if isinstance(dtype, (nw.Categorical, nw.Enum)):
            values = _with_none(series)
            declared = series.cat.get_categories().to_list()
            return Column(self.names[j], values, declared or _distinct(values), False)
        if isinstance(dtype, (nw.String, nw.Boolean, nw.Object)):
            return _column_of_array(self.names[j], _with_none(series))
        numbers = series if dtype.is_float() else series.cast(nw.Float64())
        values = np.asarray(numbers.to_numpy(), dtype=float)
        missing = np.isnan(values)
        # pandas reads integers with missing entries as floats.
        whole = missing.any() and (values[~missing] == np.rint(values[~missing])).all()
        return Column(self.names[j], values, None, bool(dtype.is_float() and not whole))

    def grid(self, chosen: list[int], points: np.ndarray) -> Any:
        """Rows with ``points`` in the chosen columns, and missing entries in all others.

        Parameters
        ----------
        chosen : list of int
        points : ndarray of shape (n_points, n_chosen)

        Returns
        -------
        DataFrame or ndarray of shape (n_points, n_features)
            If X is a DataFrame, a DataFrame of the same library.
        """
        n_points = len(points)
        if self.frame is None:
            rows = np.full((n_points, len(self.names)), np.nan)
            rows[:, chosen] = points
            return rows
        data: dict[Any, list[Any]] = {}
        schema: dict[Any, Any] = {}
        for j, label in enumerate(self.labels):
            is_number = self.frame[:, j].dtype.is_numeric()
            data[label] = [float("nan") if is_number else None] * n_points
            schema[label] = nw.Float64 if is_number else nw.String
            if j in chosen:
                data[label] = points[:, chosen.index(j)].tolist()
        backend = self.frame.implementation
        if backend.is_pandas_like():
            # Column names may be of any type there, not only strings.
            return backend.to_native_namespace().DataFrame(data)
        return nw.from_dict(data, schema, backend=backend).to_native()


def _column_of_array(name: str, values: np.ndarray) -> Column:
    """Read numbers if all entries are numbers, else categories."""
    if values.dtype.kind in "iuf":
        return Column(name, values.astype(float), None, True)
    present = [v for v in values if v is not None and v == v]
    try:
        if not any(isinstance(v, (str, bytes, bool, np.bool_)) for v in present):
            numbers = [np.nan if v is None else float(v) for v in values]
            return Column(name, np.array(numbers), None, True)
    except (TypeError, ValueError):
        pass
    categories = np.array([v if v is not None and v == v else None for v in values], dtype=object)
    return Column(name, categories, _distinct(categories), False)


def _with_none(series: Any) -> np.ndarray:
    """Values of a column, with None for missing entries."""
    missing = series.is_null().to_list()
    values = np.empty(len(missing), dtype=object)
    pairs = zip(series.to_list(), missing, strict=True)
    values[:] = [None if absent or v != v else v for v, absent in pairs]
    return values


def _distinct(values: np.ndarray) -> list[Any]:
    """Sorted categories; sorted as text if they cannot be compared."""
    distinct = {v for v in values if v is not None}
    try:
        return sorted(distinct)
    except TypeError:
        return sorted(distinct, key=str)
