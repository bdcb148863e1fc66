"""Transformers whose ``fit_transform`` takes streams."""

from __future__ import annotations

from sklearn.base import TransformerMixin

from skevae.estimators.streams import from_stream


class StreamTransformer(TransformerMixin):
    """Transformer that reads a stream of rows only once."""

    def fit_transform(self, X, y=None, **fit_params):
        """Fit to X, and transform it.

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
        ndarray or DataFrame
            As for `transform`.

        Examples
        --------
        >>> import numpy as np
        >>> from skevae import EnergyVAE
        >>> batches = (np.random.default_rng(i).normal(size=(50, 3)) for i in range(2))
        >>> EnergyVAE(n_components=2, max_iter=2, random_state=0).fit_transform(batches).shape
        (100, 2)
        """
        return super().fit_transform(from_stream(X), y, **fit_params)
