"""Base class of the prior estimators: densities that a VAE can train, score and sample."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from skevae.densities.base import Density, rows_at_once
from skevae.estimators.base import TORCH_DTYPES, TorchDensityEstimator
from skevae.estimators.standardizer import Standardizer
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.utils.device import copy_to, own_context, resolve_device
from skevae.utils.memory import row_slices
from skevae.utils.random import make_generator

# An interval of ln Z wider than this, in nats, visibly affects a score.
WIDE_INTERVAL = 0.1


class DensityPrior(TorchDensityEstimator):
    """Base of the prior estimators.

    A subclass creates its density in `make_density`. `EnergyVAE` trains that module as a part of
    itself, and `with_density` turns it into a fitted estimator. Any object with these two methods
    can be a prior, if its densities follow `skevae.densities.Density` and its fitted form has
    `score_samples`, `sample` and `log_partition_interval_`.

    Attributes
    ----------
    density_ : torch.nn.Module
        Follows `skevae.densities.Density`; on the CPU.
    log_partition_interval_ : tuple (low, high)
        Bounds of ln Z in nats; equal where it is exact.
    log_partition_ : float
        The upper bound, which `score_samples` subtracts.
    """

    _interval: LogPartitionInterval | None
    _module_name = "density_"

    def make_density(self, n_features: int, generator: torch.Generator) -> Density:
        """Return an untrained density over ``n_features`` dimensions.

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Generator of the initial parameters, on the CPU.

        Returns
        -------
        torch.nn.Module
            With the interface of `skevae.densities.Density`.
        """
        raise NotImplementedError

    def fit(self, X, y=None, sample_weight=None):
        """Fit to rows, if the subclass supports it; others are only trained inside an `EnergyVAE`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y, sample_weight : Ignored

        Raises
        ------
        NotImplementedError
            Unless the subclass overrides it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} can only be fitted as EnergyVAE(prior={self!r})."
        )

    def with_density(self, density: Density, random_state: int) -> Self:
        """Return a fitted copy of this estimator around a trained density.

        Parameters
        ----------
        density : torch.nn.Module
            Created by `make_density`, then trained; on the CPU.
        random_state : int
            Seed of the annealing runs that bound ln Z if it is not exact.

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
        """Fitted attributes for ``density``, which is in standardised coordinates."""
        return {
            "density_": density,
            "_standardizer": standardizer,
            "_partition_seed": seed,
            "_interval": None,
        }

    # Used by `skevae.densities.ex_post`: scores do not depend on random draws.
    _scores_exactly = True

    @property
    def _samples_exactly(self) -> bool:
        """Whether `sample` draws exactly from the density that `score_samples` evaluates."""
        return self.density_.samples_exactly

    @property
    def log_partition_interval_(self) -> LogPartitionInterval:
        """Bounds of ln Z in nats, computed when first needed."""
        return self.normalize()

    def normalize(self, *, effort: int = 1) -> LogPartitionInterval:
        """Compute `log_partition_interval_`, unless it was computed before.

        Parameters
        ----------
        effort : int, default=1
            If above 1, compute the interval again. If ln Z is annealed, this multiplies the number
            of steps, and the interval narrows by about the square root of ``effort``. Later scores
            use it.

        Returns
        -------
        tuple (low, high)
            Bounds of ln Z in nats; equal where it is exact.

        Raises
        ------
        ValueError
            If ``effort`` is not an integer of at least 1.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import GaussianBernoulliRBMPrior
        >>> prior = GaussianBernoulliRBMPrior(8, max_iter=2, random_state=0).fit(load_iris().data)
        >>> low, high = prior.normalize()
        >>> low == high  # exact with 8 hidden units
        True
        """
        check_is_fitted(self, "density_")
        validate_parameter_constraints(
            {"effort": [Interval(Integral, 1, None, closed="left")]},
            {"effort": effort},
            caller_name=f"{type(self).__name__}.normalize",
        )
        known = self._interval
        if known is None or effort > 1:
            device = resolve_device(self.device)
            generator = make_generator(self._partition_seed, device)
            with own_context():
                density = copy_to(self.density_, device, torch.float64)
                interval = density.log_partition_interval(generator, effort)
            # In the coordinates of X, exp(-E) integrates to Z times the volume of the scaling.
            low, high = (bound + self._standardizer.log_volume for bound in interval)
            self._interval = known = type(interval)(low, high)
            self._warn_if_wide(known)
        return known

    @property
    def log_partition_(self) -> float:
        """Ln Z in nats; the upper end of the interval if it is not exact."""
        return self.log_partition_interval_.high

    def _warn_if_wide(self, interval: LogPartitionInterval) -> None:
        width = interval.high - interval.low
        if not width <= WIDE_INTERVAL:
            warnings.warn(
                f"ln Z is only known to lie in [{interval.low:.3f}, {interval.high:.3f}] nats"
                f"{'' if interval.is_certified else ', as estimated by Markov chains'}. "
                f"Scores use the upper end, so they may be too low by {width:.2f} nats. "
                "`normalize(effort=10)` of the prior narrows the interval; a smaller prior, or one "
                "trained with a smaller learning rate, is easier to normalise.",
                ConvergenceWarning,
                stacklevel=4,
            )

    @own_context()
    def _evaluate(self, X: Any, function: str) -> np.ndarray:
        """Apply a method of the density to rows, in the dtype of X and bounded memory."""
        check_is_fitted(self, "density_")
        X = self._check_rows(X)
        device, dtype = resolve_device(self.device), TORCH_DTYPES[X.dtype]
        density = copy_to(self.density_, device, dtype)
        n_at_once = rows_at_once(density, X.itemsize)
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

        Raises
        ------
        ValueError, TypeError
            If X is not a finite array of numbers with the columns of `fit`.

        Examples
        --------
        The log-density is minus the energy and ln Z:

        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from skevae import GaussianBernoulliRBMPrior
        >>> X = load_iris().data
        >>> prior = GaussianBernoulliRBMPrior(8, max_iter=2, random_state=0).fit(X)
        >>> bool(np.allclose(-prior.energy(X) - prior.log_partition_, prior.score_samples(X)))
        True
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
            -E(x) - ln Z in nats. If ln Z is not exact, the upper end of its interval is subtracted,
            so that the value is not too high.

        Raises
        ------
        ValueError, TypeError
            If X is not a finite array of numbers with the columns of `fit`.
        """
        energy = self.energy(X)
        return -energy - energy.dtype.type(self.log_partition_)

    @own_context()
    def sample(self, n_samples=1, random_state=None):
        """Draw rows.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None uses the ``random_state`` of the estimator: with an integer seed, each call returns
            the same rows.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float64, on the scale of X.

        Raises
        ------
        ValueError
            If ``n_samples`` is not an integer of at least 1.
        """
        check_is_fitted(self, "density_")
        n_samples = self._check_n_samples(n_samples)
        device = resolve_device(self.device)
        density = copy_to(self.density_, device, torch.float64)
        generator = make_generator(self._seed_for(random_state), device)
        return self._standardizer.rows(density.sample(n_samples, generator))
