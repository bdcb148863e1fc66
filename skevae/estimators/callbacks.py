"""Connection of the training loop to scikit-learn's callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class EpochCallbacks:
    """Connect the loop to scikit-learn's callbacks: one task for a fit, one for each epoch.

    Parameters
    ----------
    estimator : estimator with `sklearn.callback.CallbackSupportMixin`
    X, y : the arguments of its fit
        Scoring callbacks need a target. Without y, X is used, because the target of an autoencoder
        is its input.
    max_epochs : int
    fitted_attributes : callable () -> dict
        Attributes that a copy of the estimator needs to be scored in its current state.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        max_epochs: int,
        fitted_attributes: Callable[[], dict[str, Any]],
    ) -> None:
        self.estimator = estimator
        self.arguments = {"X": X, "y": X if y is None else y}
        self.fitted_attributes = fitted_attributes
        self.root = estimator._init_callback_context(max_subtasks=max_epochs)
        self.root.call_on_fit_task_begin(estimator=estimator, **self.arguments)

    def begin(self) -> None:
        """Start an epoch."""
        self.epoch = self.root.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(estimator=self.estimator, **self.arguments)

    def end(self) -> bool:
        """End an epoch; True if a callback requests a stop."""
        return self.epoch.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=self.fitted_attributes,
            **self.arguments,
        )

    def finish(self) -> None:
        """End the fit, after the fitted attributes of the estimator were set."""
        self.root.call_on_fit_task_end(
            estimator=self.estimator, reconstruction_attributes=dict, **self.arguments
        )
