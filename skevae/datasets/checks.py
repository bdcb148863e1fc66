"""Checks of arguments for the data sets."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

RandomState = int | np.random.RandomState | None


def as_generator(random_state: RandomState) -> np.random.RandomState:
    """Return scikit-learn's generator, but never the global one for None."""
    if random_state is None:
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence()))
    return check_random_state(random_state)


def check_choice(parameter: str, value, choices) -> None:
    """Raise a ValueError that names the parameter, its value and the valid choices."""
    if not isinstance(value, str) or value not in choices:
        valid = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{parameter} must be one of {valid}; got {value!r}.")
