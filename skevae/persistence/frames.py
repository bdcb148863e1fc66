"""Empty tables and indices: the names and dtypes of the columns that a model was fitted to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import narwhals.stable.v2 as nw

from skevae.estimators.frames import as_frame
from skevae.persistence.graph import KINDS, Decoder, Encoder, Kind
from skevae.persistence.values import typed
from skevae.utils.archive import ArchiveError

# Libraries other than pandas, whose dtypes are those of narwhals.
BY_NARWHALS = ("polars", "pyarrow")

# Names of dtypes without parameters: parameters of dtypes in a file are never parsed.
PANDAS_DTYPE = re.compile(r"[A-Za-z]+[0-9]*(\[(python|pyarrow)\])?")
NARWHALS_DTYPES = frozenset(
    "Binary Boolean Categorical Float32 Float64 Int8 Int16 Int32 Int64 Object String UInt8 UInt16 "
    "UInt32 UInt64".split()
)

Remember = Callable[[Any], None]


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ArchiveError("it holds columns of a pandas table, but pandas is missing") from error
    return pandas


def _library(value: Any) -> str:
    return type(value).__module__.split(".")[0]


def _encode_pandas_dtype(dtype: Any, encoder: Encoder) -> Any:
    pandas = _pandas()
    if isinstance(dtype, pandas.CategoricalDtype):
        categories = encoder(dtype.categories, ".categories")
        return {"categories": categories, "ordered": dtype.ordered}
    name = str(dtype)
    if not PANDAS_DTYPE.fullmatch(name) or pandas.api.types.pandas_dtype(name) != dtype:
        raise encoder.refusal(f"a column of dtype {dtype}")
    return name


def _decode_pandas_dtype(node: Any, decoder: Decoder) -> Any:
    pandas = _pandas()
    if isinstance(node, dict):
        categories = decoder(node["categories"])
        return pandas.CategoricalDtype(categories, typed(node["ordered"], bool))
    if not PANDAS_DTYPE.fullmatch(typed(node, str)):
        raise ArchiveError(f"a column has the dtype {node!r}")
    return pandas.api.types.pandas_dtype(node)


def _encode_index(value: Any, encoder: Encoder) -> dict[str, Any]:
    if type(value) is not _pandas().Index:
        raise encoder.refusal(f"a {type(value).__name__}")
    return {
        "dtype": _encode_pandas_dtype(value.dtype, encoder),
        "items": [encoder(item) for item in value.tolist()],
        "name": encoder(value.name),
    }


def _decode_index(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> Any:
    dtype = _decode_pandas_dtype(node["dtype"], decoder)
    items = decoder.listed(node["items"])
    return _pandas().Index(items, dtype=dtype, name=decoder(node["name"]), tupleize_cols=False)


def _encode_frame(value: Any, encoder: Encoder) -> dict[str, Any]:
    frame = as_frame(value)
    if frame is None or len(frame):
        raise encoder.refusal("a table with rows")
    library = _library(value)
    names = [encoder(name) for name in frame.columns]
    if library == "pandas":
        encode, dtypes = _encode_pandas_dtype, value.dtypes
    elif library in BY_NARWHALS:
        encode, dtypes = _encode_narwhals_dtype, frame.schema.values()
    else:
        raise encoder.refusal(f"a table of {library}")
    nodes = []
    for name, dtype in zip(frame.columns, dtypes, strict=True):
        with encoder.within(f"[{name!r}]"):
            nodes.append(encode(dtype, encoder))
    return {"library": library, "names": names, "dtypes": nodes}


def _encode_narwhals_dtype(dtype: Any, encoder: Encoder) -> Any:
    if isinstance(dtype, nw.Enum):
        return {"categories": list(dtype.categories)}
    name = str(dtype)
    if name not in NARWHALS_DTYPES:
        raise encoder.refusal(f"a column of dtype {dtype}")
    return name


def _decode_narwhals_dtype(node: Any) -> Any:
    if isinstance(node, dict):
        return nw.Enum([typed(category, str) for category in typed(node["categories"], list)])
    if typed(node, str) not in NARWHALS_DTYPES:
        raise ArchiveError(f"a column has the dtype {node!r}")
    return getattr(nw, node)()


def _decode_frame(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> Any:
    library, names = typed(node["library"], str), decoder.listed(node["names"])
    nodes = typed(node["dtypes"], list)
    if len(nodes) != len(names):
        raise ArchiveError("a table has different numbers of names and dtypes")
    if library == "pandas":
        pandas = _pandas()
        dtypes = [_decode_pandas_dtype(part, decoder) for part in nodes]
        columns = [pandas.Series([], dtype=dtype) for dtype in dtypes]
        return pandas.DataFrame(dict(zip(names, columns, strict=True)))
    if library not in BY_NARWHALS:
        raise ArchiveError(f"it holds a table of the unknown library {library!r}")
    schema = {typed(n, str): _decode_narwhals_dtype(d) for n, d in zip(names, nodes, strict=True)}
    try:
        empty = nw.from_dict({n: [] for n in schema}, schema=nw.Schema(schema), backend=library)
    except ImportError as error:
        raise ArchiveError(f"it holds columns of a {library} table ({error})") from error
    return empty.to_native()


KINDS["index"] = Kind(
    lambda value: _library(value) == "pandas" and isinstance(value, _pandas().Index),
    _encode_index,
    _decode_index,
)
KINDS["frame"] = Kind(
    lambda value: _library(value) in ("pandas", *BY_NARWHALS) and as_frame(value) is not None,
    _encode_frame,
    _decode_frame,
)
