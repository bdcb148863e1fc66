"""What is reported of a training: the state that was kept, and a term for each epoch."""

from __future__ import annotations

import numpy as np

from skevae.training.loop import Run


def kept_state(run: Run) -> str:
    """Say which state a run has kept."""
    if run.best_epoch == 0:
        return "the state at the start was kept"
    return f"the state of epoch {run.best_epoch} was kept"


def joined_history(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Append the terms of a run; one entry an epoch, nan where an epoch had no such term."""
    n_old, n_new = len(old.get("objective", ())), len(new.get("objective", ()))
    return {
        name: np.concatenate(
            [old.get(name, np.full(n_old, np.nan)), new.get(name, np.full(n_new, np.nan))]
        )
        for name in {**old, **new}
    }
