"""Base classes of the likelihoods p(x | z): a family with parameters, and a torch module."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from skevae.utils.documentation import DocumentedEstimator


class Likelihood(nn.Module):
    """Distribution of a row given the outputs of the decoder.

    Parameters
    ----------
    n_features : int

    Attributes
    ----------
    n_outputs : int
        Number of outputs of the decoder for a row.
    standardizes : bool
        Whether rows may be standardised before they are modelled.
    """

    standardizes: ClassVar[bool] = True

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.n_outputs = n_outputs

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        """ln p(x | z) in nats: (n, n_features), (..., n, n_outputs) -> (..., n)."""
        return self.feature_log_density(x, outputs).sum(-1)

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        """ln p(x_j | z) of each feature, in nats.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        outputs : Tensor of shape (..., n, n_outputs)

        Returns
        -------
        Tensor of shape (..., n, n_features)
            Their sum over features is `log_density`.
        """
        raise NotImplementedError

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z]: (..., n_outputs) -> (..., n_features)."""
        raise NotImplementedError

    def pooled_mean(self, outputs: Tensor) -> Tensor:
        """E[x] over draws of z, which come first: (m, ..., n_outputs) -> (..., n_features).

        For categories, it is the most probable one over all draws.
        """
        return self.mean(outputs).mean(0)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given z: (..., n_outputs) -> (..., n_features)."""
        raise NotImplementedError

    def check_rows(self, X: np.ndarray) -> None:
        """Raise a ValueError if X, on its original scale, is outside of the support."""

    def prepare(self, X: np.ndarray) -> None:
        """Adapt to the training rows before training."""

    def training_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Rows as used in one training step: (n, n_features) -> (n, n_features)."""
        return x

    def scored_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Rows as they are scored; each is a fixed function of the row itself."""
        return x

    def free(self, x: Tensor) -> Tensor:
        """Map rows to an unconstrained space."""
        return x

    def bound(self, raw: Tensor) -> Tensor:
        """Map an unconstrained space to rows, as the inverse of `free`."""
        return raw


class LikelihoodFamily(DocumentedEstimator):
    """Base class of the values of ``likelihood=``, which create a `Likelihood` for a table."""

    _documented_in = "skevae.likelihoods"
    _parameter_constraints: dict[str, list[Any]] = {}

    # Whether integer columns have a separate likelihood, or are modelled by this one.
    bins_integers: ClassVar[bool] = True

    def make_likelihood(self, n_features: int) -> Likelihood:
        """Return the untrained likelihood of rows with ``n_features`` columns.

        Parameters
        ----------
        n_features : int

        Returns
        -------
        torch.nn.Module
            A `Likelihood`.
        """
        raise NotImplementedError
