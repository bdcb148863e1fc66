"""Objects as class and attributes: estimators and torch modules; functions by name."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.neighbors import KernelDensity
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from skevae.persistence.classes import TUPLES, Classes, why_refused
from skevae.persistence.fields import check_fields, check_names
from skevae.persistence.graph import KINDS, Decoder, Encoder, Kind
from skevae.persistence.values import typed
from skevae.utils.archive import ArchiveError

# Prefix of the names of classes that must be passed when a file is loaded.
CUSTOM = "custom."

# Attributes of every module; only the tensors and submodules are state.
NOT_STATE = frozenset(vars(nn.Module()))
HOOKS = [name for name in NOT_STATE if name.endswith("_hooks")]

# Methods of objects that define how they are copied.
PICKLING = ("__reduce__", "__reduce_ex__")

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type)

# Where scikit-learn stores the callbacks of an estimator.
CALLBACKS = "_skl_callbacks"

Remember = Callable[[Any], None]


# --- names of classes and functions ---------------------------------------------------------------


def class_name(kind: type, encoder: Encoder) -> str:
    """Name of a class in a file; a class outside the lists must be passed at load."""
    name = Classes.get().name_of(kind)
    if name is not None:
        return name
    reason = why_refused(kind)
    if reason is not None:
        raise encoder.refusal(reason)
    return CUSTOM + encoder.name_of(kind)


def class_named(name: Any, decoder: Decoder) -> type:
    """Class of a name, from the lists or from the classes that were passed."""
    if not typed(name, str).startswith(CUSTOM):
        return Classes.get().class_of(name)
    kind = decoder.given[name.removeprefix(CUSTOM)]
    if not isinstance(kind, type):
        raise ArchiveError(f"custom[{name.removeprefix(CUSTOM)!r}] must be a class, got {kind!r}")
    return kind


def _encode_function(value: Any, encoder: Encoder) -> dict[str, Any]:
    name = Classes.get().name_of_function(value)
    return {"name": CUSTOM + encoder.name_of(value) if name is None else name}


def _decode_function(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> Any:
    name = typed(node["name"], str)
    if name.startswith(CUSTOM):
        return decoder.given[name.removeprefix(CUSTOM)]
    return Classes.get().function_of(name)


# --- objects in general ---------------------------------------------------------------------------


def _blank(kind: type) -> Any:
    """Object of a class, without attributes. Its constructor is not called."""
    return object.__new__(kind)


def _encode_object(value: Any, encoder: Encoder) -> dict[str, Any]:
    kind = type(value)
    if hasattr(kind, "__array__"):
        # Such as a Series of pandas. Otherwise the error would name one of its private attributes.
        raise encoder.refusal(f"a {kind.__qualname__}")
    name = class_name(kind, encoder)
    try:
        _blank(kind)
    except TypeError:
        raise encoder.refusal(f"a {kind.__qualname__}") from None
    if any(getattr(kind, name) is not getattr(object, name) for name in PICKLING):
        raise encoder.refusal(f"a {kind.__qualname__}, which defines its own pickling")
    state = value.__getstate__()
    if not isinstance(state, dict | None):
        raise encoder.refusal(f"a {kind.__qualname__}, whose state is not a dict")
    # Callbacks observe fits; they are not a part of the model.
    kept = {name: part for name, part in (state or {}).items() if name != CALLBACKS}
    return {"class": name, "state": _encode_state(kept, encoder)}


def _encode_state(state: Mapping[str, Any], encoder: Encoder) -> list[Any]:
    return [[name, encoder(value, f".{name}")] for name, value in state.items()]


def _decode_state(nodes: Any, kind: type, decoder: Decoder, *, is_custom: bool) -> dict[str, Any]:
    state = {}
    for pair in typed(nodes, list):
        name, node = typed(pair, list)
        state[typed(name, str)] = decoder(node)
    if not is_custom:
        check_names(kind, state)
    return state


def _decode_object(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> Any:
    kind = class_named(node["class"], decoder)
    is_custom = node["class"].startswith(CUSTOM)
    if issubclass(kind, nn.Module | KernelDensity) or kind in TUPLES:
        raise ArchiveError(f"an object of {kind.__qualname__} is stored as one of another kind")
    value = _blank(kind)
    remember(value)
    state = _decode_state(node["state"], kind, decoder, is_custom=is_custom)
    if hasattr(value, "__setstate__"):
        value.__setstate__(state)
    else:
        vars(value).update(state)
    if not is_custom and kind.__module__.split(".")[0] == "skevae":
        check_fields(value)
    return value


# --- named tuples of this package -----------------------------------------------------------------


def _encode_tuple(value: Any, encoder: Encoder) -> dict[str, Any]:
    fields = [encoder(item, f".{name}") for name, item in value._asdict().items()]
    return {"class": type(value).__name__, "fields": fields}


def _decode_tuple(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> Any:
    known: dict[str, Any] = {kind.__name__: kind for kind in TUPLES}
    name = typed(node["class"], str)
    if name not in known:
        raise ArchiveError(f"it names the class {name!r}, which no model file may hold")
    return known[name](*decoder.listed(node["fields"]))


# --- torch modules --------------------------------------------------------------------------------


def _encode_module(value: nn.Module, encoder: Encoder) -> dict[str, Any]:
    if any(getattr(value, name) for name in HOOKS) or is_parametrized(value):
        raise encoder.refusal("a module with hooks or parametrisations")
    own = {name: part for name, part in vars(value).items() if name not in NOT_STATE}
    return {
        "class": class_name(type(value), encoder),
        "training": value.training,
        "state": _encode_state(own, encoder),
        "parameters": _encode_state(value._parameters, encoder),
        "buffers": _encode_state(value._buffers, encoder),
        "temporary": sorted(value._non_persistent_buffers_set),
        "modules": _encode_state(value._modules, encoder),
    }


def _decode_module(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> nn.Module:
    kind = class_named(node["class"], decoder)
    is_custom = node["class"].startswith(CUSTOM)
    if not issubclass(kind, nn.Module):
        raise ArchiveError(f"{kind.__qualname__} is no module")
    value = _blank(kind)
    nn.Module.__init__(value)
    remember(value)
    vars(value).update(_decode_state(node["state"], kind, decoder, is_custom=is_custom))
    parts = {
        group: _decode_state(node[group], kind, decoder, is_custom=is_custom)
        for group in ("parameters", "buffers", "modules")
    }
    for name, parameter in parts["parameters"].items():
        value.register_parameter(name, parameter)
    temporary = [typed(name, str) for name in typed(node["temporary"], list)]
    for name, buffer in parts["buffers"].items():
        value.register_buffer(name, buffer, persistent=name not in temporary)
    for name, module in parts["modules"].items():
        value.add_module(name, module)
    # Not by `train`, which modules override and which also changes submodules.
    value.training = typed(node["training"], bool)
    if not is_custom and kind.__module__.split(".")[0] == "skevae":
        check_fields(value)
    return value


# --- kernel density estimates ---------------------------------------------------------------------


def _encode_kernels(value: KernelDensity, encoder: Encoder) -> dict[str, Any]:
    state = dict(value.__getstate__())
    tree = state.pop("tree_", None)
    if tree is None:
        points = weights = None
    else:
        # The tree is an object of compiled code. It is built again from the same points.
        points, weights = np.asarray(tree.data), tree.__getstate__()[-1]
        if weights is not None:
            weights = np.asarray(weights)
    return {
        "state": _encode_state(state, encoder),
        "points": encoder(points, ".tree_"),
        "weights": encoder(weights, ".tree_"),
    }


def _decode_kernels(node: Mapping[str, Any], decoder: Decoder, remember: Remember) -> KernelDensity:
    value = KernelDensity()
    remember(value)
    state = _decode_state(node["state"], KernelDensity, decoder, is_custom=False)
    points, weights = decoder(node["points"]), decoder(node["weights"])
    value.__setstate__(state)
    if points is not None:
        value.fit(points, sample_weight=weights)
        vars(value).update(state)
    return value


def _is_object(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(
        value, types.ModuleType | types.MethodType | BaseException
    )


KINDS["function"] = Kind(
    lambda value: isinstance(value, FUNCTIONS),
    _encode_function,
    _decode_function,
    is_shared=False,
)
KINDS["named tuple"] = Kind(
    lambda value: type(value) in TUPLES, _encode_tuple, _decode_tuple, is_shared=False
)
KINDS["KernelDensity"] = Kind(
    lambda value: type(value) is KernelDensity, _encode_kernels, _decode_kernels
)
KINDS["module"] = Kind(lambda value: isinstance(value, nn.Module), _encode_module, _decode_module)
KINDS["object"] = Kind(_is_object, _encode_object, _decode_object)
