"""Base class of the estimators: checks of X and of arguments, and the mean score."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import validate_data

from skevae.estimators.standardizer import Standardizer
from skevae.estimators.streams import from_stream
from skevae.utils.arrays import from_torch
from skevae.utils.device import ModuleT, copy_to
from skevae.utils.documentation import DocumentedEstimator
from skevae.utils.random import draw_seed
from skevae.utils.ranks import ALONE, Ranks
from skevae.utils.weights import mean_score

TORCH_DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}

TRAINING_CONSTRAINTS: dict[str, list[Any]] = {
    "standardize": ["boolean"],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
    "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "max_time": [Interval(Real, 0, None, closed="neither"), None],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left")],
    "warm_start": ["boolean"],
    "checkpoint_dir": [str, os.PathLike, None],
    "device": [str, torch.device],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


def kept(module: ModuleT) -> ModuleT:
    """Copy a module in training to the CPU, to keep it."""
    return copy_to(module, "cpu", torch.float32).eval()


def is_positive_integer(value: Any) -> bool:
    """Whether a value is an integer of at least 1; True is not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def layer_sizes(sizes: Any) -> list[int]:
    """Widths of hidden layers, from ``hidden_layer_sizes``: one or several integers."""
    ordered = isinstance(sizes, Integral | Sequence | np.ndarray)
    widths = [sizes] if isinstance(sizes, Integral) else list(sizes)
    if not ordered or not all(is_positive_integer(width) for width in widths):
        raise ValueError(f"hidden_layer_sizes must hold integers of at least 1, got {sizes!r}.")
    return [int(width) for width in widths]


# Prefixes of the names of non-numeric dtypes in pandas, polars and Arrow, with reasons.
UNREADABLE = {
    ("date", "time", "duration", "period"): (
        "dates or durations",
        "Convert them to numbers first, for example to days since the earliest date.",
    ),
    ("interval", "list", "array", "struct", "binary"): (
        "values that are neither numbers nor categories",
        "Leave them out, or convert them to numbers or strings.",
    ),
}

# Python's messages for values that cannot be converted to numbers.
CONVERSIONS = ("could not convert", "argument must be a string or a real number")


def refuse_unreadable(X: Any) -> None:
    """Raise if X is not a table in memory, or has unsupported columns, such as dates."""
    if hasattr(X, "collect") and not hasattr(X, "__array__"):
        raise TypeError(f"X is a {type(X).__name__}, which has no rows yet. Pass X.collect().")
    # Some sparse matrices are mappings too.
    if isinstance(X, Mapping) and not hasattr(X, "shape"):
        raise TypeError(f"X is a {type(X).__name__}. Pass a table, such as pandas.DataFrame(X).")
    if getattr(getattr(X, "dtype", None), "names", None):
        raise TypeError(
            "X is a structured array, whose rows are single values. Pass pandas.DataFrame(X), or "
            "numpy.lib.recfunctions.structured_to_unstructured(X)."
        )
    dtypes = getattr(X, "dtypes", None)
    columns = getattr(X, "columns", None)
    if columns is None or dtypes is None:
        kinds = {"the array": getattr(X, "dtype", None)}
    else:
        kinds = {f"column {c!r}": d for c, d in zip(columns, dtypes, strict=True)}
    for place, dtype in kinds.items():
        for beginnings, (what, remedy) in UNREADABLE.items():
            if str(dtype).lower().startswith(beginnings):
                raise TypeError(f"X holds {what} ({place} has dtype {dtype}). {remedy}")


def as_array_like(X: Any) -> Any:
    """Turn streams and tensors into arrays in native byte order, with nan for masked entries."""
    X = from_stream(X)
    if isinstance(X, np.ma.MaskedArray):
        return np.ma.filled(X.astype(np.float64), np.nan)
    if isinstance(X, np.ndarray):
        return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))
    if hasattr(X, "columns") and hasattr(X, "astype"):
        dtypes = dict(X.dtypes)
        foreign = {c: d for c, d in dtypes.items() if isinstance(d, np.dtype) and not d.isnative}
        return X.astype({c: d.newbyteorder("=") for c, d in foreign.items()}) if foreign else X
    return from_torch(X, "X")


class TorchDensityEstimator(DensityMixin, DocumentedEstimator):
    """Base of the estimators: a density over the rows of X, held by a torch module."""

    # Set by the constructors of estimators that train.
    standardize: bool
    learning_rate: float
    batch_size: int | Literal["auto"]
    max_iter: int
    max_time: float | None
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    warm_start: bool
    checkpoint_dir: str | os.PathLike[str] | None
    device: str | torch.device
    random_state: int | np.random.RandomState | None
    verbose: int
    history_: dict[str, np.ndarray]
    n_iter_: int
    best_n_iter_: int
    _standardizer: Standardizer

    # Name of the attribute with the fitted module.
    _module_name: ClassVar[str]

    def _set_fitted(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)

    def _check_rows(
        self, X: Any, *, reset: bool = False, min_samples: int = 1, ranks: Ranks = ALONE
    ) -> np.ndarray:
        """Validate X as float32 or float64; other numbers become float64.

        Only estimators that determine the kinds of columns use ``ranks``.
        """
        refuse_unreadable(X)
        X = as_array_like(X)
        return self._validated(X, reset=reset, ensure_min_samples=min_samples)

    def _validated(self, X: Any, **checks: Any) -> np.ndarray:
        try:
            return validate_data(self, X, dtype=[np.float64, np.float32], **checks)
        except OverflowError as error:
            raise ValueError(
                f"X has integers beyond the range of floating-point numbers ({error})."
            ) from error
        except (TypeError, ValueError) as error:
            if not any(text in str(error) for text in CONVERSIONS):
                raise
            raise type(error)(
                f"X holds values that are not numbers ({error}). Convert them to numbers, for "
                "example by OneHotEncoder, or pass a DataFrame with categories to EnergyVAE."
            ) from error

    def _resolve_batch_size(self, n_rows: int) -> int:
        """Batch size: small for few rows, so that an epoch has many steps, and at most 256."""
        if self.batch_size == "auto":
            return min(256, max(16, n_rows // 32))
        return self.batch_size

    def score(self, X, y=None, sample_weight=None):
        """Mean log-likelihood of the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the mean.

        Returns
        -------
        float
            Mean of `score_samples`, in nats, on the scale of X.
        """
        return mean_score(self.score_samples(X), sample_weight)

    def _seed_for(self, random_state: int | np.random.RandomState | None) -> int:
        """Seed of a call: from its random_state if given, else from that of the estimator."""
        state = self.random_state if random_state is None else random_state
        validate_parameter_constraints(
            {"random_state": ["random_state"]},
            {"random_state": state},
            caller_name=type(self).__name__,
        )
        return draw_seed(state)

    def _check_n_samples(self, n_samples: int) -> int:
        validate_parameter_constraints(
            {"n_samples": [Interval(Integral, 1, None, closed="left")]},
            {"n_samples": n_samples},
            caller_name=f"{type(self).__name__}.sample",
        )
        return int(n_samples)

    def _check_latent(self, Z: Any, n_columns: int, name: str) -> np.ndarray:
        """Validate an array that is not X: latents or hidden units."""
        Z = from_torch(Z, name)
        Z = check_array(Z, dtype=[np.float64, np.float32], input_name=name)
        if Z.shape[1] != n_columns:
            raise ValueError(
                f"{name} has {Z.shape[1]} columns, but {type(self).__name__} expects {n_columns}. "
                "Pass an array returned by transform or sample of the same model."
            )
        return Z
