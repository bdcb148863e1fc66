"""Base class of the estimators that use a density."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from skevae.utils.documentation import DocumentedEstimator


def check_takes_weights(estimator: Any) -> None:
    """Raise a ValueError if ``fit`` of the estimator has no ``sample_weight``."""
    if not has_fit_parameter(estimator, "sample_weight"):
        raise ValueError(
            f"sample_weight was given, but fit of estimator={estimator!r} does not take it. Use "
            "another estimator, or leave out sample_weight."
        )


class DensityMeta(DocumentedEstimator):
    """Base of the estimators that fit a density and use it."""

    estimator: Any
    random_state: Any

    def _fitted_density(self, default: Any, X: Any, sample_weight: Any) -> Any:
        """A fitted clone of ``estimator``, or of the default if it is None."""
        estimator = clone(default if self.estimator is None else self.estimator)
        if estimator.get_params().get("random_state", 0) is None:
            estimator.set_params(random_state=self.random_state)
        if sample_weight is None:
            return estimator.fit(X)
        check_takes_weights(estimator)
        return estimator.fit(X, sample_weight=sample_weight)

    def _take_features(self, fitted: Any) -> None:
        """Copy the attributes for the columns of X from an estimator that was fitted to it."""
        self.n_features_in_ = fitted.n_features_in_
        if hasattr(fitted, "feature_names_in_"):
            self.feature_names_in_ = fitted.feature_names_in_
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
