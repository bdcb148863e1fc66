"""EnergyImputer: imputation of missing entries from a density of the rows."""

from __future__ import annotations

from typing import Any

from sklearn.base import OneToOneFeatureMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from skevae.energy_vae import EnergyVAE
from skevae.estimators.transformer import StreamTransformer
from skevae.fitted.conditionals import IMPUTATIONS
from skevae.meta.base import DensityMeta
from skevae.utils.constraints import InstanceWith

# Fraction of entries that the default estimator hides, to train it on incomplete rows.
MASK_RATE = 0.2


class EnergyImputer(OneToOneFeatureMixin, StreamTransformer, DensityMeta):
    """Imputation of missing values from a density of the rows.

    A density of all columns is fitted to the observed entries of X. Missing entries are imputed
    from their conditional distribution given the rest of the row. Columns may be continuous,
    integer or categorical.

    Parameters
    ----------
    estimator : EnergyVAE, default=None
        An estimator with ``fit`` and ``impute``. None is ``EnergyVAE(mask_rate=0.2)``.
    method : {"mean", "median", "mode", "draw"}, default="mean"
        See `EnergyVAE.impute`.
    sample_posterior : bool, default=False
        Whether entries are drawn from their conditional distribution, for multiple imputation. If
        True, ``method`` is "draw", and fits with different ``random_state`` give different results.
    random_state : int, RandomState instance or None, default=None
        Seed of the fit and the draws, if ``estimator`` has no ``random_state``.

    Attributes
    ----------
    estimator_ : estimator
        The fitted density.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    sklearn.impute.IterativeImputer : A regression of each column on the others.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyImputer, EnergyVAE
    >>> X = load_iris().data
    >>> X[::10, 2] = np.nan
    >>> estimator = EnergyVAE(4, mask_rate=0.2, max_iter=20, random_state=0)
    >>> filled = EnergyImputer(estimator).fit_transform(X)
    >>> bool(np.isnan(filled).any())
    False
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "estimator": [InstanceWith("a density", ["fit", "impute"]), None],
        "method": [StrOptions(set(IMPUTATIONS))],
        "sample_posterior": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, method="mean", sample_posterior=False, random_state=None):
        self.estimator = estimator
        self.method = method
        self.sample_posterior = sample_posterior
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the density to the observed entries.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            At least 2 rows, and at least one value in each column.
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the fit.

        Returns
        -------
        self
        """
        self.estimator_ = self._fitted_density(EnergyVAE(mask_rate=MASK_RATE), X, sample_weight)
        self._take_features(self.estimator_)
        return self

    def transform(self, X):
        """Fill the missing entries of rows.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            In the format of the X of `fit`; observed entries are unchanged.
        """
        check_is_fitted(self, "estimator_")
        method = "draw" if self.sample_posterior else self.method
        return self.estimator_.impute(X, method=method)
