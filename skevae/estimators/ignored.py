"""Parameters of nested estimators that have no effect."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

from skevae.estimators.base import TRAINING_CONSTRAINTS

# Parameters of a prior estimator that are also used inside an autoencoder.
SHARED_WITH_PRIOR = {"device", "random_state"}


def ignored_parameters(prior: Any) -> Iterator[str]:
    """Training parameters of a prior estimator that differ from their defaults."""
    defaults = inspect.signature(type(prior).__init__).parameters
    for name in TRAINING_CONSTRAINTS.keys() - SHARED_WITH_PRIOR:
        if name in defaults and getattr(prior, name) != defaults[name].default:
            yield name


def warn_of_ignored_parameters(prior: Any) -> None:
    """Warn if training parameters of a nested prior, an estimator or a name, are ignored."""
    names = [] if isinstance(prior, str) else sorted(ignored_parameters(prior))
    if names:
        warnings.warn(
            f"The parameters {', '.join(names)} of prior={prior!r} are ignored: EnergyVAE trains "
            "it together with its networks. Set these parameters on EnergyVAE instead.",
            UserWarning,
            stacklevel=2,
        )
