"""Attributes of objects in a file: checks against the declarations of their classes."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from sklearn.base import BaseEstimator
from torch import nn

from skevae.utils.archive import ArchiveError

# Types that match an annotation of a number.
NUMBERS: dict[Any, type] = {float: Real, int: Integral}


@cache
def declared(kind: Any) -> Mapping[str, Any]:
    """Attributes that a class of this package declares, with their types.

    These are the attributes annotated in its body, and the parameters of its constructor, many of
    which are stored under their names. Parameters of estimators are excluded: they are validated
    where they are used.
    """
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.split(".")[0] == "skevae" and "__init__" in vars(base):
            parameters = get_type_hints(vars(base)["__init__"]).items()
            # Containers may be stored as containers of another type.
            hints.update({n: hint for n, hint in parameters if get_origin(hint) is None})
    hints.update(get_type_hints(kind))
    validated = kind._get_param_names() if issubclass(kind, BaseEstimator) else []
    return {
        name: hint
        for name, hint in hints.items()
        if name not in validated and name != "return" and get_origin(hint) is not ClassVar
    }


@cache
def required(kind: Any) -> frozenset[str]:
    """Attributes that an object of a class must have.

    For estimators, these are the parameters; for other classes, the annotated ones without a
    default.
    """
    if issubclass(kind, BaseEstimator):
        return frozenset(kind._get_param_names())
    own = [base for base in kind.__mro__ if base.__module__.split(".")[0] == "skevae"]
    annotated = {name for base in own for name in inspect.get_annotations(base)}
    return frozenset(name for name in annotated if not hasattr(kind, name))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type, as far as this can be determined."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, parts[1]) for item in value.values())
    kind = hint if origin is None else origin
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if issubclass(kind, nn.Module):
        # Custom modules only need to have the methods.
        return isinstance(value, nn.Module)
    if isinstance(value, bool):
        return kind in (bool, object)
    return isinstance(value, NUMBERS.get(kind, kind))


def check_names(kind: type, names: Iterable[Any]) -> None:
    """Raise if names of attributes would hide definitions of the class.

    Raises
    ------
    ArchiveError
        If a name is that of a method, or is special to Python.
    """
    for name in names:
        if not isinstance(name, str) or name.startswith("__"):
            raise ArchiveError(f"an object of {kind.__qualname__} has an attribute {name!r}")
        found = inspect.getattr_static(kind, name, None)
        if callable(found) or isinstance(found, property | classmethod | staticmethod):
            raise ArchiveError(f"the attribute {name!r} would hide that of {kind.__qualname__}")


def check_fields(value: Any) -> None:
    """Raise if attributes of an object of this package do not match the declarations of its class.

    Raises
    ------
    ArchiveError
        If one has another type, or a required one is missing.
    """
    kind: Any = type(value)
    present = dict(vars(value))
    if isinstance(value, nn.Module):
        for group in ("_parameters", "_buffers", "_modules"):
            present |= present.pop(group)
    missing = sorted(required(kind) - present.keys())
    if missing:
        raise ArchiveError(f"{kind.__qualname__}.{missing[0]} is missing")
    for name, hint in declared(kind).items():
        if name in present and not fits(present[name], hint):
            found = type(present[name]).__name__
            raise ArchiveError(f"{kind.__qualname__}.{name} is of the type {found}")
