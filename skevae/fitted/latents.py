"""Encoding and decoding: rows to latents, and latents to rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skevae.estimators.frames import with_index_of
from skevae.estimators.standardizer import as_tensor
from skevae.fitted.base import FittedModel
from skevae.scoring import Scorer, in_chunks
from skevae.utils.device import own_context
from skevae.vae import VAE


class Latents(FittedModel):
    """Methods that encode and decode."""

    def transform(self, X):
        """Posterior mean of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            E[z | x], in the dtype of X. For flow posteriors, an average over fixed points of noise.

        Raises
        ------
        ValueError, TypeError
            If X does not have the columns of `fit`, holds values that these cannot have, or the
            square of a value overflows.
        """
        return self._encode(X)

    def _encode(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "module_")
        rows = self._rows_within_reach(X)

        def encode(scorer: Scorer, rows: np.ndarray) -> dict[str, np.ndarray]:
            model = scorer.model

            def means(part: slice) -> np.ndarray:
                x = self._standardizer.tensor(rows[part], scorer.device, scorer.dtype)
                return model.posterior.mean(model.encoder(x)).cpu().numpy()

            with torch.no_grad():
                return {"mean": in_chunks(means, len(rows), scorer.width, rows.itemsize)}

        return self._by_holes(rows, encode)["mean"]

    def inverse_transform(self, Z):
        """Mean of the rows given latents.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            E[x | z], on the scale of X, in the dtype of Z. Integers are rounded; for categories, it
            is the most probable one. For bounded columns, it is the mean of the mapped column,
            mapped back: for a positive column, the geometric mean. If `fit` was called with a
            DataFrame, a DataFrame.

        Raises
        ------
        ValueError
            If Z is not a finite array with a column for each latent.
        """
        check_is_fitted(self, "module_")
        given, Z = Z, self._check_latent(Z, self.module_.density.n_latent, "Z")
        rows = self._decode(Z, lambda model, outputs: model.likelihood.mean(outputs))
        return with_index_of(rows, given)

    def reconstruct(self, X):
        """Decode the posterior mean of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            ``inverse_transform(transform(X))``.

        Raises
        ------
        ValueError, TypeError
            If X does not have the columns of `fit`, holds values that these cannot have, or the
            square of a value overflows.
        """
        return with_index_of(self.inverse_transform(self._encode(X)), X)

    def _decode(
        self, Z: np.ndarray, read: Callable[[VAE, Tensor], Tensor], dtype: DTypeLike | None = None
    ) -> Any:
        """Decode latents in chunks, apply ``read`` to the outputs, and return rows like X."""
        return self._like_x(self._decoded(Z, read, dtype))

    def _decoded(
        self, Z: np.ndarray, read: Callable[[VAE, Tensor], Tensor], dtype: DTypeLike | None = None
    ) -> np.ndarray:
        """Decoded rows, as numbers on the scale of X, in the dtype of Z if none is given."""
        scorer = self._scorer(Z.dtype)

        def decode(part: slice) -> np.ndarray:
            outputs = scorer.model.decoder(as_tensor(Z[part], scorer.device, scorer.dtype))
            return self._standardizer.rows(read(scorer.model, outputs), dtype)

        with own_context(), torch.no_grad():
            return in_chunks(decode, len(Z), scorer.width, Z.itemsize)
