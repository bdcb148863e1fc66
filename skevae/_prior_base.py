"""What every prior estimator is: a density that a VAE can train, and that scores and samples."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skevae._base import (
    TORCH_DTYPES,
    Standardizer,
    TorchDensityEstimator,
    memory_budget,
    row_slices,
)
from skevae._device import copy_to, resolve_device
from skevae._random import make_generator
from skevae.densities import Density
from skevae.partition import LogPartitionInterval

# An interval of ln Z wider than this, in nats, is a visible part of a score.
WIDE_INTERVAL = 0.1


class DensityPrior(TorchDensityEstimator):
    """Base of the prior estimators.

    A subclass says how to make its density (`make_density`). `EnergyVAE` trains that module as a
    part of itself and hands it back (`with_density`) as a fitted estimator. Any object with these
    two methods, whose densities follow `skevae.densities.Density` and whose fitted form has
    `score_samples`, `sample` and `log_partition_interval_`, can be a prior.

    Attributes
    ----------
    density_ : torch.nn.Module
        Follows `skevae.densities.Density`; on the CPU.
    log_partition_interval_ : tuple (low, high)
        Bounds of ln Z in nats; equal where it is exact.
    log_partition_ : float
        The upper one, which `score_samples` subtracts.
    """

    _interval: LogPartitionInterval | None

    def make_density(self, n_features: int, generator: torch.Generator) -> Density:
        """Return an untrained density over ``n_features`` dimensions.

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Of the initial parameters, on the CPU.

        Returns
        -------
        torch.nn.Module
            With the interface of `skevae.densities.Density`.
        """
        raise NotImplementedError

    def fit(self, X, y=None):
        """Fit to rows, where a subclass can; others are only trained inside an `EnergyVAE`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored

        Raises
        ------
        NotImplementedError
            Unless the subclass overrides it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} is only fitted as EnergyVAE(prior={self!r})."
        )

    def with_density(self, density: Density, random_state: int) -> Self:
        """Return a fitted copy of this estimator around a trained density.

        Parameters
        ----------
        density : torch.nn.Module
            Made by `make_density` and trained since; on the CPU.
        random_state : int
            Of the annealing runs that bound ln Z where it is not exact.

        Returns
        -------
        estimator
            A clone of this one, fitted.
        """
        fitted = clone(self)
        fitted.n_features_in_ = density.n_latent
        identity = Standardizer(np.zeros((1, density.n_latent)), enabled=False)
        fitted._set_fitted(fitted._attributes(density, identity, random_state))
        return fitted

    def _attributes(
        self, density: Density, standardizer: Standardizer, seed: int
    ) -> dict[str, Any]:
        """Fitted attributes around ``density``, which lives in standardised coordinates."""
        return {
            "density_": density,
            "_standardizer": standardizer,
            "_partition_seed": seed,
            "_interval": None,
        }

    @property
    def _samples_exactly(self) -> bool:
        """Whether `sample` draws from the very law that `score_samples` scores."""
        return self.density_.samples_exactly

    @property
    def log_partition_interval_(self) -> LogPartitionInterval:
        """Bounds of ln Z in nats, worked out when first asked for."""
        check_is_fitted(self, "density_")
        known = self._interval
        if known is None:
            device = resolve_device(self.device)
            density = copy_to(self.density_, device, torch.float64)
            interval = density.log_partition_interval(make_generator(self._partition_seed, device))
            # exp(-E) in the coordinates of X integrates to Z times the volume of the scaling.
            low, high = (bound - self._standardizer.log_jacobian for bound in interval)
            self._interval = known = LogPartitionInterval(low, high)
            self._warn_if_wide(known)
        return known

    @property
    def log_partition_(self) -> float:
        """Ln Z in nats; the upper end of the interval where it is not exact."""
        return self.log_partition_interval_.high

    def _warn_if_wide(self, interval: LogPartitionInterval) -> None:
        width = interval.high - interval.low
        if not width <= WIDE_INTERVAL:
            warnings.warn(
                f"ln Z is only known to lie in [{interval.low:.3f}, {interval.high:.3f}] nats. "
                f"Scores use the upper end and so may err low by {width:.2f} nats. A prior with "
                "fewer hidden units, or one trained with a smaller learning rate, is easier to "
                "normalise.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _evaluate(self, X: Any, function: str) -> np.ndarray:
        """Apply a method of the density to rows, in the dtype of X and bounded memory."""
        check_is_fitted(self, "density_")
        X = self._check_rows(X)
        device, dtype = resolve_device(self.device), TORCH_DTYPES[X.dtype]
        density = copy_to(self.density_, device, dtype)
        # A row holds its features and hidden units a few times over.
        width = sum(parameter.numel() for parameter in density.parameters()) // density.n_latent
        n_at_once = max(1, memory_budget() // (8 * X.itemsize * (width + X.shape[1])))
        with torch.no_grad():
            parts = [
                getattr(density, function)(self._standardizer.tensor(X[rows], device, dtype))
                for rows in row_slices(X.shape[0], n_at_once)
            ]
        return torch.cat(parts).cpu().numpy()

    def energy(self, X):
        """Energy of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            E(x) in nats; the log-density is -E(x) - `log_partition_`.
        """
        return self._evaluate(X, "energy")

    def score_samples(self, X):
        """Log-density of each row, normalised.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            -E(x) - ln Z in nats. Where ln Z is an interval its upper end is subtracted, so that
            the number errs low.
        """
        energy = self.energy(X)
        return -energy - energy.dtype.type(self.log_partition_)

    def sample(self, n_samples=1, random_state=None):
        """Draw rows.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None uses the estimator's own ``random_state``, so that an estimator with an integer
            seed returns the same rows each time.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self, "density_")
        n_samples = self._check_n_samples(n_samples)
        device = resolve_device(self.device)
        density = copy_to(self.density_, device, torch.float64)
        generator = make_generator(self._seed_for(random_state), device)
        return self._standardizer.rows(density.sample(n_samples, generator))
