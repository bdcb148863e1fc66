"""Base classes of the prior estimators: densities that a VAE can train, score and sample."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from skevae.densities.base import Density
from skevae.estimators.base import TORCH_DTYPES, TorchDensityEstimator
from skevae.estimators.mode import Mode
from skevae.estimators.standardizer import Standardizer
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.priors.fit import PriorFit
from skevae.utils.device import copy_to, resolve_device
from skevae.utils.memory import memory_budget, row_slices
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
            density = copy_to(self.density_, device, torch.float64)
            interval = density.log_partition_interval(
                make_generator(self._partition_seed, device), effort
            )
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
            -E(x) - ln Z in nats. If ln Z is not exact, the upper end of its interval is subtracted,
            so that the value is not too high.
        """
        energy = self.energy(X)
        return -energy - energy.dtype.type(self.log_partition_)

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
        """
        check_is_fitted(self, "density_")
        n_samples = self._check_n_samples(n_samples)
        device = resolve_device(self.device)
        density = copy_to(self.density_, device, torch.float64)
        generator = make_generator(self._seed_for(random_state), device)
        return self._standardizer.rows(density.sample(n_samples, generator))


class TrainedDensityPrior(CallbackSupportMixin, DensityPrior):
    """Base of the priors that can also be fitted on their own, by maximum likelihood.

    It has the parameters that all of them share; a subclass adds its own, with their
    ``_parameter_constraints``. ``partition`` is "auto" unless the subclass has it as a parameter.
    """

    partition = "auto"

    def __init__(
        self,
        *,
        standardize,
        learning_rate,
        batch_size,
        max_iter,
        max_time,
        early_stopping,
        validation_fraction,
        n_iter_no_change,
        tol,
        warm_start,
        checkpoint_dir,
        device,
        random_state,
        verbose,
    ):
        self.standardize = standardize
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.max_time = max_time
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit by maximum likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows in the likelihood. A weight of 2 counts a row twice,
            and a weight of 0 excludes it. If None, all rows have weight 1.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not a finite 2-D array of numbers with at least 2 rows, a parameter is out of
            its range, or the density is too large for ``partition="exact"``.

        Warns
        -----
        ConvergenceWarning
            If training diverged (the best state is kept), or the interval of ln Z is wider than 0.1
            nats.
        """
        PriorFit(self, X, y, sample_weight, Mode.of(self, one_pass=False)).run()
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over X, starting from the current state.

        The first call initialises the model and the standardisation, so its rows should be
        representative. No rows are held out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows in the first call.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows in the likelihood. A weight of 2 counts a row twice,
            and a weight of 0 excludes it. If None, all rows have weight 1.

        Returns
        -------
        self
        """
        PriorFit(self, X, y, sample_weight, Mode.of(self, one_pass=True)).run()
        return self
