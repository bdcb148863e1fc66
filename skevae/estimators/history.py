"""The report of a training run: the state that was kept, and the terms of each epoch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skevae.training.loop import Run


def kept_state(run: Run) -> str:
    """Describe the state that a run has kept."""
    if run.best_epoch == 0:
        return "the state at the start was kept"
    return f"the state of epoch {run.best_epoch} was kept"


def kept_epoch(old: dict[str, np.ndarray], run: Run, before: int) -> int:
    """Epoch of the joined history whose state was kept; ``before`` if it is not a new one."""
    if run.best_epoch == 0:
        return before if old else 0
    return len(old.get("objective", ())) + run.best_epoch


def warn_of_run(run: Run, estimator: Any, n_warmup: float) -> None:
    """Warn if a run diverged, or ran out of time in the ``n_warmup`` epochs of its warm-up."""
    name, n_epochs = type(estimator).__name__, len(run.history.get("objective", ()))
    message = ""
    if run.status == "diverged":
        what = (
            f"the objective broke down in epoch {run.failed_epoch}"
            if run.failed_epoch
            else "it ended with a far lower score than it started with"
        )
        message = (
            f"{name} diverged: {what}; {kept_state(run)}. Try a smaller learning_rate "
            f"than {estimator.learning_rate}, or look for extreme values in X."
        )
    elif run.status == "out of time" and n_epochs <= n_warmup:
        message = (
            f"{name} ran out of time in epoch {n_epochs}, before the warm-up of its objective was "
            f"over; {kept_state(run)}. Raise max_time={estimator.max_time}, or lower max_iter or "
            "kl_warmup."
        )
    if message:
        warnings.warn(message, ConvergenceWarning, stacklevel=7)


def joined_history(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Append the terms of a run; one entry per epoch, nan if an epoch has no such term."""
    n_old, n_new = len(old.get("objective", ())), len(new.get("objective", ()))
    return {
        name: np.concatenate(
            [old.get(name, np.full(n_old, np.nan)), new.get(name, np.full(n_new, np.nan))]
        )
        for name in {**old, **new}
    }
