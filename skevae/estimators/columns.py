"""The columns of a table: their kinds, and the conversion from rows to numbers and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from skevae.estimators.frames import as_frame
from skevae.estimators.kinds import check_integers, joined, kind_of
from skevae.estimators.selection import selected
from skevae.estimators.streams import from_stream
from skevae.utils.arrays import is_missing
from skevae.utils.memory import pieces, stays_in_file
from skevae.utils.ranks import ALONE, Ranks

NOT_NUMBERS = "Name it in categorical_features, convert it to numbers, or leave it out."


class Columns:
    """Kinds of the columns of a table, determined from its rows.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n, n_features)
    categorical : "from_dtype", array-like of bool, int or str, or None
        The categorical columns.
    integer : "from_dtype", array-like of bool, int or str, or None
        The integer columns.
    on_unknown : {"error", "missing"}
        Whether categories that do not occur in X raise an error or become missing values.
    ranks : Ranks, optional
        The ranks that hold the rows of the table, a part each.

    Attributes
    ----------
    n_categories : ndarray of int of shape (n_features,)
        0 for a numeric column.
    integer : ndarray of bool of shape (n_features,)

    Raises
    ------
    ValueError, TypeError
        If a parameter names a column that X does not have, or a column is of a kind that cannot be
        modelled.
    """

    on_unknown: str
    names: list[Any] | None
    n_columns: int
    integer: np.ndarray
    categories: list[list[Any] | None]
    n_categories: np.ndarray

    def __init__(
        self, X: Any, categorical: Any, integer: Any, on_unknown: str, ranks: Ranks = ALONE
    ) -> None:
        frame = as_frame(X)
        self.on_unknown = on_unknown
        self.names = None if frame is None else list(frame.columns)
        ranks.agree("the columns of X", self.names or np.shape(X)[1])
        # An empty table, which stores the library, the names, the dtypes and their categories.
        self.template = None if frame is None else frame.head(0).to_native()
        if frame is None:
            self._is_object = np.asarray(X).dtype.kind in "OUS"
            n_features = np.shape(X)[1]
            of_dtype = np.zeros((2, n_features), dtype=bool)
        else:
            n_features = len(frame.columns)
            if not n_features:
                raise ValueError("X has no columns. Pass at least one.")
            parts = ranks.gather([kind_of(column) for column in frame.iter_columns()])
            of_dtype = np.array([joined(kinds) for kinds in zip(*parts, strict=True)]).T
        self.n_columns = n_features
        is_categorical, self.integer = of_dtype
        if not isinstance(categorical, str):
            is_categorical = self.chosen(categorical, "categorical_features")
        if not isinstance(integer, str):
            self.integer = self.chosen(integer, "integer_features")
        both = np.flatnonzero(is_categorical & self.integer)
        if len(both) and "from_dtype" not in (str(categorical), str(integer)):
            raise ValueError(
                f"categorical_features and integer_features both name {self.name(both[0])}. "
                "Name it in only one of them."
            )
        # Explicit parameters take precedence over dtypes.
        if isinstance(categorical, str):
            is_categorical &= ~self.integer
        else:
            self.integer &= ~is_categorical
        chosen = np.flatnonzero(is_categorical).tolist()
        seen = ranks.gather({j: self._seen(X, frame, j) for j in chosen})
        self.categories = [
            self._united([part[j] for part in seen], j) if is_categorical[j] else None
            for j in range(n_features)
        ]
        if ranks.size > 1 and frame is not None:
            self._unite_template(ranks)
        self.n_categories = np.array([len(c) if c else 0 for c in self.categories])

    @property
    def are_numbers(self) -> bool:
        """Whether all columns are continuous."""
        return not (self.n_categories.any() or self.integer.any())

    def name(self, j: int) -> str:
        """Name one column, for messages."""
        return f"column {j}" if self.names is None else f"column {self.names[j]!r}"

    def chosen(self, given: Any, parameter: str) -> np.ndarray:
        """Mask of the columns that a parameter selects; see `selected`."""
        return selected(given, parameter, self.n_columns, self.names)

    def _seen(self, X: Any, frame: nw.DataFrame[Any] | None, j: int) -> tuple[list[Any], bool]:
        """Categories of one column, and whether they are declared (and therefore ordered)."""
        if frame is not None:
            dtype = frame[:, j].dtype
            if isinstance(dtype, (nw.Categorical, nw.Enum)):
                declared = frame[:, j].cat.get_categories().to_list()
                if declared:
                    return declared, True
        return list(set(self._values(X, frame, j)) - {None}), False

    def _united(self, parts: Sequence[tuple[list[Any], bool]], j: int) -> list[Any]:
        """Sorted categories of one column, from the categories of parts of its rows."""
        every = list(dict.fromkeys(value for values, _ in parts for value in values))
        if any(declared for _, declared in parts):
            return every
        try:
            return sorted(every)
        except TypeError as error:
            raise TypeError(
                f"{self.name(j)} mixes values that cannot be ordered ({error}). Convert it to "
                "one type, for example to strings."
            ) from error

    def _unite_template(self, ranks: Ranks) -> None:
        """Use the empty table of rank 0, with dtypes that can hold the rows of all ranks."""
        frames = [as_frame(template) for template in ranks.gather(self.template)]
        frame = frames[0]
        assert frame is not None
        for name, categories in zip(frame.columns, self.categories, strict=True):
            dtypes = [other[name].dtype for other in frames if other is not None]
            if dtypes[0].is_integer() and any(dtype.is_float() for dtype in dtypes):
                frame = frame.with_columns(nw.col(name).cast(nw.Float64()))
            if isinstance(dtypes[0], nw.Enum) and dtypes != dtypes[:1] * len(dtypes):
                raise ValueError(f"Ranks differ in the dtype of column {name!r}: {dtypes}.")
            if isinstance(dtypes[0], nw.Categorical) and frame.implementation.is_pandas_like():
                native = frame.to_native()
                native[name] = native[name].cat.set_categories(categories)
        self.template = frame.to_native()

    def _values(self, X: Any, frame: nw.DataFrame[Any] | None, j: int) -> list[Any]:
        """Values of one column, with None for missing entries."""
        if frame is None:
            values = np.asarray(X)[:, j].astype(object).tolist()
            return [None if is_missing(v) else v for v in values]
        column = frame[:, j]
        missing = column.is_null().to_list()
        values = column.to_list()
        return [None if m or v != v else v for v, m in zip(values, missing, strict=True)]

    def numbers(self, X: Any) -> np.ndarray:
        """Turn rows into numbers: categories into 0, 1, ..., missing entries into nan.

        Returns
        -------
        ndarray of shape (n, n_features)
            float32 if all of X is float32, else float64.
        """
        frame = as_frame(X)
        if frame is None and self.are_numbers:
            return X
        if frame is None and stays_in_file(X):
            return from_stream(self._in_memory(piece, None) for piece in pieces(X))
        return self._in_memory(X, frame)

    def _in_memory(self, X: Any, frame: nw.DataFrame[Any] | None) -> np.ndarray:
        n_features = len(self.integer)
        parts = [
            self._codes(X, frame, j) if self.n_categories[j] else self._number(X, frame, j)
            for j in range(n_features)
        ]
        single = all(part.dtype == np.float32 for part in parts)
        rows = np.empty((len(parts[0]), n_features), np.float32 if single else np.float64)
        for j, part in enumerate(parts):
            rows[:, j] = part
        return rows

    def check_objects(self, X: Any) -> None:
        """Raise if numeric columns contain objects that are not numbers.

        Raises
        ------
        TypeError
            If so; the message names the column.
        """
        frame = as_frame(X)
        for j, categories in enumerate(self.categories[: 0 if frame is None else frame.shape[1]]):
            assert frame is not None
            if categories is None and isinstance(frame[:, j].dtype, nw.Object):
                self._objects(X, frame, j)

    def row(self, given: Mapping[Any, Any]) -> np.ndarray:
        """Turn some entries of a row, by name or index, into numbers: (1, n_features).

        Raises
        ------
        ValueError
            If it names a column that X does not have, or an unknown category.
        """
        values: np.ndarray = np.full((1, self.n_columns), None, dtype=object)
        for name, value in given.items():
            values[0, self.chosen([name], "given")] = value
        parts = [
            self._codes(values, None, j) if self.n_categories[j] else self._number(values, None, j)
            for j in range(self.n_columns)
        ]
        return np.array(parts).T

    def _codes(self, X: Any, frame: nw.DataFrame[Any] | None, j: int) -> np.ndarray:
        categories = self.categories[j]
        assert categories is not None
        codes: dict[Any, float] = {value: float(k) for k, value in enumerate(categories)}
        codes[None] = math.nan
        values = self._values(X, frame, j)
        for value in set(values) - codes.keys():
            if self.on_unknown == "error":
                raise ValueError(
                    f"{self.name(j)} has the category {value!r}, which was not seen in fit. "
                    "To treat unknown categories as missing, fit with handle_unknown='missing'."
                )
            codes[value] = math.nan
        return np.array([codes[value] for value in values], dtype=float)

    def _number(self, X: Any, frame: nw.DataFrame[Any] | None, j: int) -> np.ndarray:
        if np.asarray(X).dtype == object if frame is None else frame[:, j].dtype == nw.Object:
            values = self._objects(X, frame, j)
        elif frame is None:
            values = np.asarray(X)[:, j]
        else:
            column = frame[:, j]
            if not column.dtype.is_float():
                try:
                    column = column.cast(nw.Float64())
                except Exception as error:
                    raise TypeError(
                        f"{self.name(j)} of dtype {column.dtype} cannot be read as numbers "
                        f"({error}). {NOT_NUMBERS}"
                    ) from error
            values = column.to_numpy()
        values = np.asarray(values, dtype=np.float32 if values.dtype == np.float32 else np.float64)
        if self.integer[j]:
            check_integers(values, self.name(j))
        return values

    def _objects(self, X: Any, frame: nw.DataFrame[Any] | None, j: int) -> np.ndarray:
        """Turn a column of Python objects into numbers."""
        numbers = []
        for value in self._values(X, frame, j):
            try:
                numbers.append(math.nan if value is None else float(value))
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"{self.name(j)} holds {value!r}, which is neither a number nor a category. "
                    + NOT_NUMBERS
                ) from error
        return np.array(numbers)

    def rows(self, numbers: np.ndarray) -> Any:
        """Turn numbers back into rows in the format of the original table."""
        if self.template is None:
            if not self.n_categories.any():
                return self.rounded(numbers)
            return self._array(numbers)
        template = nw.from_native(self.template, eager_only=True)
        data = {
            name: self._column(numbers[:, j], j, template[:, j].dtype)
            for j, name in enumerate(self.names or [])
        }
        if template.implementation.is_pandas_like():
            frame = template.implementation.to_native_namespace().DataFrame(data)
            return frame.astype(self._possible_dtypes(data))
        return nw.from_dict(
            data, schema=template.schema, backend=template.implementation
        ).to_native()

    def _possible_dtypes(self, data: dict[Any, list[Any]]) -> dict[Any, Any]:
        """Dtypes of the template, except for integer or boolean columns with missing entries."""
        template = self.template
        assert template is not None
        dtypes = dict(template.dtypes)
        return {
            name: dtype
            for name, dtype in dtypes.items()
            if not (getattr(dtype, "kind", "O") in "iub" and None in data[name])
        }

    def rounded(self, numbers: np.ndarray) -> np.ndarray:
        """Round the integer columns, the last axis of ``numbers`` being columns."""
        if not self.integer.any():
            return numbers
        return np.where(self.integer, np.rint(numbers), numbers)

    def _array(self, numbers: np.ndarray) -> np.ndarray:
        columns = [self._column(numbers[:, j], j) for j in range(numbers.shape[1])]
        return np.array(columns, dtype=object if self._is_object else numbers.dtype).T.copy()

    def _column(self, values: np.ndarray, j: int, dtype: Any = None) -> list[Any]:
        """Values of one column; for a DataFrame, values that its dtype can hold."""
        categories = self.categories[j]
        missing = np.isnan(values)
        if categories is not None:
            codes = np.where(missing, 0, values).astype(int)
            return [None if m else categories[c] for c, m in zip(codes, missing, strict=True)]
        if dtype is not None and isinstance(dtype, nw.Boolean):
            return [None if m else bool(v > 0.5) for v, m in zip(values, missing, strict=True)]
        integers = dtype is not None and dtype.is_integer()
        if self.integer[j] or integers:
            known = integers and "128" not in str(dtype)
            limits = np.iinfo(str(dtype).lower() if known else np.int64)
            # The float64 number closest to a 64-bit limit.
            low, high = max(limits.min, -(2.0**63)), min(limits.max, 2.0**63 - 1024)
            whole = np.rint(np.where(missing, 0, values)).clip(low, high).astype(np.int64)
            return [None if m else int(v) for v, m in zip(whole, missing, strict=True)]
        return values.tolist()
