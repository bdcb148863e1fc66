"""Parameter constraints that scikit-learn does not have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any, TypeVar

from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

at_least = partial(Interval, Integral, right=None, closed="left")


class InstanceWith(HasMethods):
    """An instance, not a class, that has all of the given methods."""

    def __init__(self, kind: str, methods: Sequence[str]) -> None:
        super().__init__(list(methods))
        self.kind = kind

    def is_satisfied_by(self, val: Any) -> bool:
        return not inspect.isclass(val) and super().is_satisfied_by(val)

    def __str__(self) -> str:
        named = [repr(method) for method in self.methods]
        listed = ", ".join(named[:-1]) + f" and {named[-1]}" if len(named) > 1 else named[0]
        return f"an instance of {self.kind}, not a class, with {listed}"


EntryT = TypeVar("EntryT")


class Entries(Mapping[str, EntryT]):
    """The current entries of a registry that satisfy a condition.

    Parameters
    ----------
    registry : mapping of str to anything
    condition : callable (entry) -> bool
    """

    def __init__(self, registry: Mapping[str, EntryT], condition: Callable[[EntryT], bool]) -> None:
        self.registry, self.condition = registry, condition

    def __getitem__(self, key: str) -> EntryT:
        entry = self.registry[key]
        if not self.condition(entry):
            raise KeyError(key)
        return entry

    def __iter__(self) -> Iterator[str]:
        return (key for key, entry in self.registry.items() if self.condition(entry))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class KeyOf(StrOptions):
    """A current key of a registry: entries can be added from outside the package.

    Parameters
    ----------
    registry : mapping of str to anything
    others : str
        Other valid values.
    """

    def __init__(self, registry: Mapping[str, Any], *others: str) -> None:
        self.registry, self.others = registry, others
        super().__init__({*registry, *others})

    def is_satisfied_by(self, val: Any) -> bool:
        self.options = {*self.registry, *self.others}
        return super().is_satisfied_by(val)
