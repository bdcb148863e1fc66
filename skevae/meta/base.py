"""Base class of the estimators that use a density."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from skevae.utils.documentation import DocumentedEstimator


class DensityMeta(DocumentedEstimator):
    """Base of the estimators that fit a density and use it."""

    estimator: Any
    random_state: Any

    def _fit_density(self, default: Any, X: Any, sample_weight: Any) -> None:
        """Fit a clone of ``estimator``, or of the default if it is None."""
        estimator = clone(default if self.estimator is None else self.estimator)
        if estimator.get_params().get("random_state", 0) is None:
            estimator.set_params(random_state=self.random_state)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        self.estimator_ = estimator.fit(X, **weights)
        self._take_features(self.estimator_)

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
