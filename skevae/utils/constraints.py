"""Constraints of parameters that scikit-learn does not have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from sklearn.utils._param_validation import HasMethods, StrOptions


class InstanceWith(HasMethods):
    """An instance, not a class, that has all of some methods."""

    def __init__(self, kind: str, methods: Sequence[str]) -> None:
        super().__init__(list(methods))
        self.kind = kind

    def is_satisfied_by(self, val: Any) -> bool:
        return not inspect.isclass(val) and super().is_satisfied_by(val)

    def __str__(self) -> str:
        named = [repr(method) for method in self.methods]
        listed = ", ".join(named[:-1]) + f" and {named[-1]}" if len(named) > 1 else named[0]
        return f"an instance of {self.kind}, not a class, with {listed}"


class KeyOf(StrOptions):
    """A key of a registry, as it is when it is asked: members can be added from outside.

    Parameters
    ----------
    registry : mapping of str to anything
    others : str
        Allowed besides.
    """

    def __init__(self, registry: Mapping[str, Any], *others: str) -> None:
        self.registry, self.others = registry, others
        super().__init__({*registry, *others})

    def is_satisfied_by(self, val: Any) -> bool:
        self.options = {*self.registry, *self.others}
        return super().is_satisfied_by(val)
