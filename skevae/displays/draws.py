"""Samples of any density estimator, for different signatures of `sample`."""

from __future__ import annotations

import inspect
from typing import Any


def draw_rows(estimator: Any, n_samples: int, random_state: Any) -> Any:
    """Draw rows from a density estimator.

    The estimators of scikit-learn differ: `KernelDensity.sample` takes a ``random_state``, while
    `GaussianMixture.sample` takes none and also returns the components of the rows.

    Returns
    -------
    array-like or DataFrame of shape (n_samples, n_features)
    """
    takes_state = "random_state" in inspect.signature(estimator.sample).parameters
    options = {"random_state": random_state} if takes_state else {}
    drawn = estimator.sample(n_samples, **options)
    return drawn[0] if isinstance(drawn, tuple) else drawn
