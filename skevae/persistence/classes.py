"""The classes and functions that a file may name. Nothing else is imported for a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sklearn.base import BaseEstimator
from torch import nn

from skevae.estimators.bounds import Bounds
from skevae.estimators.columns import Columns
from skevae.estimators.standardizer import Standardizer
from skevae.log_partition.annealing import EstimatedInterval, LogPartitionInterval
from skevae.networks.flows import import_zuko
from skevae.utils.archive import ArchiveError
from skevae.vae_fit import Decided

# The estimators are found as subclasses: `skevae/__init__` has imported them all.
VALUES = (Bounds, Columns, Standardizer)
TUPLES = (Decided, EstimatedInterval, LogPartitionInterval)

# torch layers whose state consists of parameters, buffers and plain attributes.
TORCH_LAYERS = (
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Dropout",
    "ELU",
    "Embedding",
    "Flatten",
    "GELU",
    "GroupNorm",
    "Hardtanh",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "Mish",
    "ModuleDict",
    "ModuleList",
    "PReLU",
    "ParameterDict",
    "ParameterList",
    "ReLU",
    "SELU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "Unflatten",
    "Upsample",
)

SKLEARN_DENSITIES = ("GaussianMixture", "BayesianGaussianMixture", "KernelDensity")

# By submodule. The first group contains layers, the second the functions that they call.
ZUKO_LAYERS = {
    "flows.autoregressive": ("MaskedAutoregressiveTransform",),
    "flows.gaussianization": ("ElementWiseTransform",),
    "lazy": ("LazyComposedTransform",),
    "nn": ("Linear", "MLP", "MaskedLinear", "MaskedMLP"),
}
ZUKO_FUNCTIONS = {
    "transforms": ("AdditiveTransform", "MonotonicAffineTransform", "MonotonicRQSTransform"),
}


def _descendants(kind: type) -> Iterator[type]:
    child: type
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def own_classes() -> dict[str, type]:
    """Classes of this package whose objects a file may hold, by name."""
    descended = {kind for base in (nn.Module, BaseEstimator) for kind in _descendants(base)}
    own = [kind for kind in descended if kind.__module__.split(".")[0] == "skevae"]
    return {f"skevae.{kind.__qualname__}": kind for kind in (*own, *VALUES)}


def _sklearn_classes() -> dict[str, type]:
    # Imported late, because each import takes time.
    from sklearn import mixture, neighbors
    from sklearn.utils import _metadata_requests as requests

    found = {
        name: getattr(mixture, name, None) or getattr(neighbors, name) for name in SKLEARN_DENSITIES
    }
    found.update({n: getattr(requests, n) for n in ("MetadataRequest", "MethodMetadataRequest")})
    return {f"sklearn.{name}": kind for name, kind in found.items()}


def _of_zuko(groups: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    zuko = import_zuko()
    found = {}
    for module, names in groups.items():
        place = zuko
        for part in module.split("."):
            place = getattr(place, part)
        found.update({f"zuko.{name}": getattr(place, name) for name in names})
    return found


class Classes:
    """The objects that the names in a file refer to.

    A library is imported when a file names one of its classes in the lists above.
    """

    @classmethod
    @cache
    def get(cls) -> Classes:
        """Return the only instance of this class."""
        return cls()

    def __init__(self) -> None:
        self.known: dict[str, type] = {}
        self.functions: dict[str, Any] = {}
        self._loaded: set[str] = set()
        self._names: dict[type, str] = {}
        self._add(own_classes())
        self._add({f"torch.{name}": getattr(nn, name) for name in TORCH_LAYERS})

    def _add(self, classes: dict[str, type]) -> None:
        self.known.update(classes)
        self._names.update({kind: name for name, kind in classes.items()})

    def _load(self, library: str) -> None:
        if library in self._loaded:
            return
        self._loaded.add(library)
        if library == "sklearn":
            self._add(_sklearn_classes())
        elif library == "zuko":
            self._add(_of_zuko(ZUKO_LAYERS))
            self.functions.update(_of_zuko(ZUKO_FUNCTIONS))

    def name_of(self, kind: type) -> str | None:
        """Name of a class, or None if it is not in the lists."""
        self._load(kind.__module__.split(".")[0])
        return self._names.get(kind)

    def name_of_function(self, function: Any) -> str | None:
        """Name of a function of a library, or None if it is not in the lists."""
        if "zuko" in sys.modules:
            self._load("zuko")
        return next((name for name, known in self.functions.items() if known is function), None)

    def class_of(self, name: str) -> type:
        """Class of a name.

        Raises
        ------
        ArchiveError
            If it is not in the lists.
        """
        self._load(name.split(".")[0])
        if name not in self.known:
            raise ArchiveError(f"it names the class {name!r}, which no model file may hold")
        return self.known[name]

    def function_of(self, name: str) -> Any:
        """Function of a library by its name.

        Raises
        ------
        ArchiveError
            If it is not in the lists.
        """
        self._load(name.split(".")[0])
        if name not in self.functions:
            raise ArchiveError(f"it names the function {name!r}, which no model file may hold")
        return self.functions[name]


def why_refused(kind: type) -> str | None:
    """Tell why objects of a class outside the lists are rejected; None if it can be custom."""
    if kind.__module__.split(".")[0] == "sklearn":
        densities = ", ".join(SKLEARN_DENSITIES)
        return f"a {kind.__qualname__} (of scikit-learn's objects, only {densities} are stored)"
    return None
