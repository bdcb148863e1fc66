"""Plain values: containers, arrays, tensors, NumPy numbers, and other values of parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from sklearn.utils import Bunch
from torch import Tensor, nn

from skevae.persistence.graph import KINDS, Decoder, Encoder, Kind
from skevae.utils.archive import ArchiveError

# Kinds of numbers: bool, int, unsigned int, float.
NUMBERS = "biuf"

# Arrays of other dtypes are stored as integers of the same size.
STORED_AS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}

Remember = Callable[[Any], None]


def typed(value: Any, kind: type) -> Any:
    """Return a value of the file if it has the given type.

    Raises
    ------
    ArchiveError
        If it has another type.
    """
    if type(value) is not kind:
        raise ArchiveError(f"it has a {type(value).__name__} where a {kind.__name__} is expected")
    return value


def value_kind(
    name: str,
    types: tuple[type, ...],
    encode: Callable[[Any], dict[str, Any]],
    decode: Callable[[Mapping[str, Any]], Any],
) -> None:
    """Add a kind for values without parts, of exactly the given types."""
    KINDS[name] = Kind(
        matches=lambda value: type(value) in types,
        encode=lambda value, encoder: encode(value),
        decode=lambda node, decoder, remember: decode(node),
        is_shared=False,
    )


# --- containers -----------------------------------------------------------------------------------


def _encode_items(value: Any, encoder: Encoder) -> dict[str, Any]:
    return {"items": [encoder(item, f"[{i}]") for i, item in enumerate(value)]}


def _decode_list(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> list[Any]:
    result: list[Any] = []
    remember(result)
    result += decoder.listed(node["items"])
    return result


def _encode_dict(value: dict[Any, Any], encoder: Encoder) -> dict[str, Any]:
    items = [[encoder(k, f" key {k!r}"), encoder(v, f"[{k!r}]")] for k, v in value.items()]
    return {"items": items}


def _decode_dict(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> dict[Any, Any]:
    result: dict[Any, Any] = Bunch() if node["is"] == "Bunch" else {}
    remember(result)
    for pair in typed(node["items"], list):
        key, value = decoder.listed(pair)
        result[key] = value
    return result


def _container(kind: type, decode: Callable[..., Any], *, is_shared: bool = False) -> None:
    encode = _encode_dict if issubclass(kind, dict) else _encode_items
    KINDS[kind.__name__] = Kind(lambda value: type(value) is kind, encode, decode, is_shared)


_container(list, _decode_list, is_shared=True)
_container(dict, _decode_dict, is_shared=True)
_container(Bunch, _decode_dict, is_shared=True)
_container(tuple, lambda node, decoder, _: tuple(decoder.listed(node["items"])))
_container(torch.Size, lambda node, decoder, _: torch.Size(decoder.listed(node["items"])))
_container(set, lambda node, decoder, _: set(decoder.listed(node["items"])))
_container(frozenset, lambda node, decoder, _: frozenset(decoder.listed(node["items"])))


# --- arrays and tensors ---------------------------------------------------------------------------


def _encode_array(value: np.ndarray, encoder: Encoder) -> dict[str, Any]:
    array = np.asarray(value)
    node: dict[str, Any] = {"dtype": array.dtype.str, "shape": list(array.shape)}
    if array.dtype == object:
        return {**node, **_encode_items(array.ravel().tolist(), encoder)}
    if array.dtype.kind not in NUMBERS + "cSU" or array.dtype.itemsize > 2**20:
        raise encoder.refusal(f"an array of dtype {array.dtype}")
    # Products of an array in Fortran order may differ in the last digit.
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    content = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
    if array.dtype.kind not in NUMBERS or array.dtype.byteorder == ">" or len(content) == 0:
        stored = np.frombuffer(content.tobytes(), np.uint8).copy()
    elif array.dtype in (np.float16, np.float32, np.float64):
        stored = content
    else:
        stored = content.view(STORED_AS.get(array.dtype.itemsize, np.uint8))
    return {**node, "fortran": fortran, "content": torch.from_numpy(np.array(stored))}


def _decode_array(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> np.ndarray:
    shape = tuple(typed(size, int) for size in typed(node["shape"], list))
    dtype = np.dtype(typed(node["dtype"], str))
    if dtype.kind == "O":
        items = decoder.listed(node["items"])
        array = np.empty(len(items), dtype=object)
        for i, item in enumerate(items):  # a list remains a single entry
            array[i] = item
        return array.reshape(shape)
    content = node["content"]
    if not isinstance(content, Tensor) or dtype.kind not in NUMBERS + "cSU":
        raise ArchiveError("an array has no content")
    stored = content.numpy().reshape(-1).view(np.uint8)
    flat = stored != 0 if dtype.kind == "b" else stored.view(dtype)
    if min(shape, default=0) < 0:
        raise ArchiveError(f"an array has the shape {shape}")
    return flat.reshape(shape[::-1]).T if typed(node["fortran"], bool) else flat.reshape(shape)


def _encode_tensor(value: Tensor, encoder: Encoder) -> dict[str, Any]:
    if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
        raise encoder.refusal("a tensor that is not dense and real")
    return {
        "content": value.detach(),
        "parameter": type(value) is nn.Parameter,
        "requires_grad": value.requires_grad and value.is_leaf,
    }


def _decode_tensor(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> Tensor:
    content, requires_grad = node["content"], typed(node["requires_grad"], bool)
    if not isinstance(content, Tensor):
        raise ArchiveError("a tensor has no content")
    if typed(node["parameter"], bool):
        return nn.Parameter(content, requires_grad)
    # A copy, because another node may refer to the tensor of the file.
    return content.detach().requires_grad_(requires_grad)


KINDS["array"] = Kind(
    lambda value: type(value) in (np.ndarray, np.memmap), _encode_array, _decode_array
)
KINDS["tensor"] = Kind(
    lambda value: type(value) in (Tensor, nn.Parameter), _encode_tensor, _decode_tensor
)


# --- single values --------------------------------------------------------------------------------


def _encode_scalar(value: np.generic) -> dict[str, Any]:
    return {"dtype": value.dtype.str, "value": value.item()}


def _decode_scalar(node: Mapping[str, Any]) -> Any:
    dtype, value = np.dtype(typed(node["dtype"], str)), node["value"]
    if dtype.kind == "U":
        return np.str_(typed(value, str))
    if dtype.kind not in NUMBERS or type(value) not in (bool, int, float):
        raise ArchiveError(f"a number has the dtype {dtype} and the value {value!r}")
    return dtype.type(value)


def _decode_random_state(node: Mapping[str, Any]) -> np.random.RandomState:
    key, position, has_gauss, gauss = (
        node["key"],
        node["position"],
        node["has_gauss"],
        node["gauss"],
    )
    state = np.random.RandomState(np.random.MT19937(0))
    words = [typed(word, int) for word in typed(key, list)]
    state.set_state(("MT19937", np.array(words, np.uint32), position, has_gauss, gauss))
    return state


def _encode_random_state(value: np.random.RandomState, encoder: Encoder) -> dict[str, Any]:
    state: Any = value.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise encoder.refusal(f"a RandomState of {state['bit_generator']}")
    return {
        "key": state["state"]["key"].tolist(),
        "position": int(state["state"]["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def _dtype_named(node: Mapping[str, Any]) -> torch.dtype:
    dtype = getattr(torch, typed(node["name"], str), None)
    return typed(dtype, torch.dtype)


KINDS["scalar"] = Kind(
    lambda value: (
        isinstance(value, np.generic)
        and value.dtype.kind in NUMBERS + "U"
        # For long doubles, `item` is not a Python number.
        and value.dtype.itemsize <= 8 + 2**20 * (value.dtype.kind == "U")
    ),
    lambda value, encoder: _encode_scalar(value),
    lambda node, decoder, remember: _decode_scalar(node),
    is_shared=False,
)
KINDS["RandomState"] = Kind(
    lambda value: type(value) is np.random.RandomState,
    _encode_random_state,
    lambda node, decoder, remember: _decode_random_state(node),
)
KINDS["path"] = Kind(
    lambda value: isinstance(value, PurePath),
    lambda value, encoder: {"name": str(value)},
    lambda node, decoder, remember: Path(typed(node["name"], str)),
    is_shared=False,
)
value_kind(
    "bytes",
    (bytes,),
    lambda value: {"text": value.decode("latin-1")},
    lambda node: typed(node["text"], str).encode("latin-1"),
)
value_kind(
    "device",
    (torch.device,),
    lambda value: {"name": str(value)},
    lambda node: torch.device(typed(node["name"], str)),
)
value_kind(
    "torch.dtype",
    (torch.dtype,),
    lambda value: {"name": str(value).removeprefix("torch.")},
    _dtype_named,
)
value_kind(
    "dtype",
    (type(np.dtype(float)),),
    lambda value: {"name": value.str},
    lambda node: np.dtype(typed(node["name"], str)),
)


def _encode_partial(value: functools.partial[Any], encoder: Encoder) -> dict[str, Any]:
    return {
        "function": encoder(value.func, ".func"),
        "arguments": encoder(value.args, ".args"),
        "keywords": encoder(value.keywords, ".keywords"),
    }


def _decode_partial(
    node: Mapping[str, Any], decoder: Decoder, remember: Remember
) -> functools.partial[Any]:
    arguments = typed(decoder(node["arguments"]), tuple)
    keywords = typed(decoder(node["keywords"]), dict)
    return functools.partial(decoder(node["function"]), *arguments, **keywords)


KINDS["partial"] = Kind(
    lambda value: type(value) is functools.partial, _encode_partial, _decode_partial
)
