"""A graph of objects as plain JSON: a table of nodes, in which shared objects are stored once.

Numbers, strings and None are stored as such. Everything else is a node: a dict whose entry "is"
names its kind, or {"ref": i}, the i-th node of the table. A kind is a pair of functions in `KINDS`,
which convert a value to a node and a node to a value. Other kinds raise an error, both in writing
and in reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from skevae.utils.archive import ArchiveError

PLAIN = (type(None), bool, int, float, str)

USE_JOBLIB = "Use joblib.dump instead, whose files execute code when they are loaded."


class Kind(NamedTuple):
    """How values of some types become nodes, and nodes become values again."""

    matches: Callable[[Any], bool]
    encode: Callable[[Any, Encoder], dict[str, Any]]
    # Creates the value of a node. `remember` takes a value that is created before its parts, so
    # that these can refer to it.
    decode: Callable[[Mapping[str, Any], Decoder, Callable[[Any], None]], Any]
    # Whether it matters that two places hold the same object. If so, it is stored in the table.
    is_shared: bool = True


# In the order in which they are tried; filled by the modules that define them.
KINDS: dict[str, Kind] = {}


class Encoder:
    """Turns values into nodes.

    Attributes
    ----------
    table : list of dict
        The nodes of shared objects.
    given : dict of str to object
        Functions and classes that must be passed when the file is loaded, by name.
    """

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] = []
        self.given: dict[str, Any] = {}
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is only unique while its object exists
        self._path: list[str] = []

    def __call__(self, value: Any, name: str = "") -> Any:
        """Return the node of a value; ``name`` tells where it was found."""
        if type(value) in PLAIN:
            return value
        if id(value) in self._places:
            return {"ref": self._places[id(value)]}
        with self.within(name):
            for kind_name, kind in KINDS.items():
                if kind.matches(value):
                    return self._encoded(kind_name, kind, value)
            raise self.refusal(f"a {type(value).__qualname__}")

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Add a name to the place that messages tell."""
        self._path.append(name)
        yield
        self._path.pop()

    def _encoded(self, name: str, kind: Kind, value: Any) -> dict[str, Any]:
        if not kind.is_shared:
            return {"is": name, **kind.encode(value, self)}
        place = len(self.table)
        self._places[id(value)] = place
        self._kept.append(value)
        self.table.append({})
        self.table[place] = {"is": name, **kind.encode(value, self)}
        return {"ref": place}

    def refusal(self, what: str) -> TypeError:
        """Error for a value that a file of this format cannot store."""
        where = "".join(self._path)
        return TypeError(f"{where} is {what}. A model file cannot store it. {USE_JOBLIB}")

    def name_of(self, thing: Any) -> str:
        """Name of a function or class that is not stored, but passed when the file is loaded."""
        name = thing.__qualname__
        if self.given.setdefault(name, thing) is not thing:
            raise self.refusal(f"one of two different objects named {name!r}")
        return name


class Decoder:
    """Turns nodes into values.

    Parameters
    ----------
    table : list of dict
        As written by an `Encoder`.
    given : mapping of str to object
        Functions and classes, by name.
    """

    def __init__(self, table: list[Any], given: Mapping[str, Any]) -> None:
        self.table = table
        self.given = given
        self._values: dict[int, Any] = {}
        self._open: set[int] = set()

    def __call__(self, node: Any) -> Any:
        """Return the value of a node."""
        if type(node) in PLAIN:
            return node
        if type(node) is not dict:
            raise ArchiveError(f"it has a {type(node).__name__} where a node is expected")
        if "ref" in node:
            return self._shared(node["ref"])
        return self._decoded(node, lambda value: None)

    def _shared(self, place: Any) -> Any:
        if type(place) is not int or not 0 <= place < len(self.table):
            raise ArchiveError(f"it refers to an object {place!r} that does not exist")
        if place in self._values:
            return self._values[place]
        if place in self._open:
            raise ArchiveError(f"object {place} contains itself")
        self._open.add(place)
        node = self.table[place]
        if type(node) is not dict:
            raise ArchiveError(f"object {place} is not a node")
        self._values[place] = self._decoded(
            node, lambda value: self._values.__setitem__(place, value)
        )
        return self._values[place]

    def _decoded(self, node: Mapping[str, Any], remember: Callable[[Any], None]) -> Any:
        name = node.get("is")
        if not isinstance(name, str) or name not in KINDS:
            raise ArchiveError(f"it holds a node of the unknown kind {name!r}")
        return KINDS[name].decode(node, self, remember)

    def listed(self, nodes: Any) -> list[Any]:
        """Values of a list of nodes."""
        if type(nodes) is not list:
            raise ArchiveError(f"it has a {type(nodes).__name__} where a list is expected")
        return [self(node) for node in nodes]
