"""Samples of any density estimator, whichever way its `sample` is written."""

from __future__ import annotations

import inspect
from typing import Any


def draw_rows(estimator: Any, n_samples: int, random_state: Any) -> Any:
    """Draw rows from a density estimator.

    Those of scikit-learn do not agree: `KernelDensity.sample` takes a ``random_state``,
    `GaussianMixture.sample` takes none and returns the components of the rows as well.

    Returns
    -------
    array-like or DataFrame of shape (n_samples, n_features)
    """
    takes_state = "random_state" in inspect.signature(estimator.sample).parameters
    options = {"random_state": random_state} if takes_state else {}
    drawn = estimator.sample(n_samples, **options)
    return drawn[0] if isinstance(drawn, tuple) else drawn
