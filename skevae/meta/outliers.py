"""EnergyOutlierDetector: rows with a low density are outliers."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import OutlierMixin, _fit_context
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _num_samples, check_is_fitted

from skevae.energy_vae import EnergyVAE
from skevae.estimators.streams import from_stream
from skevae.meta.base import DensityMeta
from skevae.utils.constraints import InstanceWith
from skevae.utils.weights import checked_weights, separating_quantile


class EnergyOutlierDetector(OutlierMixin, DensityMeta):
    """Outlier detection by the density of the rows.

    Parameters
    ----------
    estimator : density estimator, default=None
        An estimator with ``fit`` and ``score_samples``. None is
        ``EnergyVAE(likelihood="gaussian")``. The default likelihood of `EnergyVAE` has a higher
        density on most tables, but it has narrow peaks at values that occur often. Outliers with
        such values are then missed.
    contamination : float in (0, 0.5], default=0.1
        Fraction of the training rows that are labelled as outliers.
    random_state : int, RandomState instance or None, default=None
        Seed of the fit, if ``estimator`` has no ``random_state``.

    Attributes
    ----------
    estimator_ : estimator
        The fitted density.
    offset_ : float
        The log-likelihood, in nats, below which a row is an outlier. A fraction of the training
        rows of at most ``contamination`` is below it. It is halfway between the scores of two rows,
        or just below the lowest score.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    sklearn.ensemble.IsolationForest : Outliers are isolated by few random splits.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyOutlierDetector, EnergyVAE
    >>> X = load_iris().data
    >>> estimator = EnergyVAE(4, max_iter=20, random_state=0)
    >>> detector = EnergyOutlierDetector(estimator).fit(X)
    >>> int((detector.predict(X) == -1).sum())
    15
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "estimator": [InstanceWith("a density", ["fit", "score_samples"]), None],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, contamination=0.1, random_state=None):
        self.estimator = estimator
        self.contamination = contamination
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the density, and compute the score below which rows are outliers.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the fit, and in the share of outliers. Rows with weight 0 are
            ignored.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the fit raises one, or the fitted density scores rows with nan.
        """
        # A stream is read here, once for the fit and the threshold.
        X = from_stream(X)
        density = self._fitted_density(EnergyVAE(likelihood="gaussian"), X, sample_weight)
        weights = checked_weights(sample_weight, np.empty((_num_samples(X), 1)))
        if weights is not None:
            X = _safe_indexing(*indexable(X), np.flatnonzero(weights))
            weights = weights[weights > 0]
        scores = density.score_samples(X)
        if np.isnan(scores).any():
            raise ValueError(
                f"estimator={density!r} scores {np.isnan(scores).sum()} of {len(scores)} rows with "
                "nan, so no threshold can be set. Use another estimator."
            )
        self.offset_ = separating_quantile(scores, self.contamination, weights)
        self.estimator_ = density
        self._take_features(density)
        return self

    def fit_predict(self, X, y=None, **fit_params):
        """Fit to X, and label its rows.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features), or stream of rows
            As for `fit`; a stream is read once.
        y : Ignored
            For API consistency.
        **fit_params : dict
            Arguments of `fit`.

        Returns
        -------
        ndarray of int of shape (n_samples,)
            -1 for outliers, 1 for others.
        """
        return super().fit_predict(from_stream(X), y, **fit_params)

    def score_samples(self, X):
        """Log-likelihood of each row, in nats; lower values are more abnormal.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)

        Raises
        ------
        ValueError, TypeError
            If X does not have the columns of `fit`, or holds values that these cannot have.
        """
        check_is_fitted(self, "estimator_")
        return self.estimator_.score_samples(X)

    def decision_function(self, X):
        """``score_samples(X) - offset_``: negative for outliers.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """Label rows: -1 for outliers, 1 for others.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of int of shape (n_samples,)
        """
        return np.where(self.decision_function(X) < 0, -1, 1)
