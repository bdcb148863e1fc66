"""Checks of the arguments that the data sets share."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

RandomState = int | np.random.RandomState | None


def as_generator(random_state: RandomState) -> np.random.RandomState:
    """Return scikit-learn's generator, except that None never means the global one."""
    if random_state is None:
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence()))
    return check_random_state(random_state)


def check_choice(parameter: str, value, choices) -> None:
    """Raise a ValueError that names the parameter, its value and what it may be."""
    if not isinstance(value, str) or value not in choices:
        valid = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{parameter} must be one of {valid}; got {value!r}.")
