"""How a fit starts, and how the estimator is restored after a failed fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Self

# Prefixes of the attributes in which scikit-learn keeps the callbacks of a fit.
CALLBACK_NAMES = ("_callback", "_skl_callback")


class Mode(Enum):
    """How a fit starts, and how long it runs."""

    FIT = "fit"
    WARM_START = "fit from the fitted state"
    FIRST_PASS = "first partial_fit"
    NEXT_PASS = "later partial_fit"

    @classmethod
    def of(cls, estimator: Any, *, one_pass: bool) -> Self:
        """Choose the mode of a call for an estimator, which may be fitted already."""
        fitted = hasattr(estimator, estimator._module_name)
        if one_pass:
            return cls.NEXT_PASS if fitted else cls.FIRST_PASS
        return cls.WARM_START if fitted and estimator.warm_start else cls.FIT

    @property
    def continues(self) -> bool:
        """Whether the fit continues from the fitted state."""
        return self in (Mode.WARM_START, Mode.NEXT_PASS)

    @property
    def one_pass(self) -> bool:
        """Whether the fit is a single pass over the rows."""
        return self in (Mode.FIRST_PASS, Mode.NEXT_PASS)


@contextmanager
def unchanged_on_failure(estimator: Any) -> Iterator[None]:
    """Restore all attributes of an estimator if the context ends with an error.

    Attributes in which scikit-learn stores the callbacks of the fit are not restored, because
    scikit-learn ends the callbacks itself.
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        callbacks = {k: v for k, v in vars(estimator).items() if k.startswith(CALLBACK_NAMES)}
        vars(estimator).clear()
        vars(estimator).update(before | callbacks)
        raise
