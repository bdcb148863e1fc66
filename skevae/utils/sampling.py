"""Samples of any density estimator."""

from __future__ import annotations

import copy
import inspect
from typing import Any


def seeded_sample(estimator: Any, n_samples: int, random_state: Any) -> Any:
    """Draw rows from a fitted estimator.

    The estimators of scikit-learn differ: `KernelDensity.sample` takes a ``random_state``, while
    `GaussianMixture.sample` takes none and also returns the components of the rows.

    Parameters
    ----------
    estimator : fitted estimator
    n_samples : int
    random_state : int, RandomState instance or None
        None uses the ``random_state`` of the estimator.

    Returns
    -------
    array-like or DataFrame of shape (n_samples, n_features)
        In an order that need not be random.
    """
    if "random_state" in inspect.signature(estimator.sample).parameters:
        drawn = estimator.sample(n_samples, random_state=random_state)
    else:
        estimator = copy.copy(estimator)
        if random_state is not None and hasattr(estimator, "random_state"):
            estimator.random_state = random_state
        drawn = estimator.sample(n_samples)
    return drawn[0] if isinstance(drawn, tuple) else drawn
