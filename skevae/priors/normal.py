"""NormalPrior: the standard normal as a prior estimator."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.base import _fit_context

from skevae.densities.base import Density
from skevae.densities.normal import StandardNormalDensity
from skevae.estimators.standardizer import Standardizer
from skevae.priors.base import DensityPrior
from skevae.utils.device import resolve_device
from skevae.utils.weights import checked_weights


class NormalPrior(DensityPrior):
    """Standard normal prior N(0, I), as in the standard variational autoencoder.

    It has nothing to fit, and serves as a baseline for other priors.

    Parameters
    ----------
    device : str or torch.device, default="auto"
        "auto" uses the first CUDA device if there is one, and the CPU otherwise.
    random_state : int, RandomState instance or None, default=None
        Seed of `sample`.

    Attributes
    ----------
    density_ : torch.nn.Module
        The density, on the CPU.
    log_partition_ : float
        D/2 ln 2 pi, in nats.
    log_partition_interval_ : tuple (low, high)
        Twice ``log_partition_``, which is exact.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    GaussianBernoulliRBMPrior : An energy-based prior that is learned.

    Examples
    --------
    >>> from skevae import NormalPrior
    >>> prior = NormalPrior(random_state=0).fit([[0.0, 1.0], [2.0, 0.5]])
    >>> round(float(prior.score_samples([[0.0, 0.0]])[0]), 4)
    -1.8379
    >>> prior.sample(3).shape
    (3, 2)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "device": [str, torch.device],
        "random_state": ["random_state"],
    }

    def __init__(self, *, device="auto", random_state=None):
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Store the number of features; there is nothing else to learn.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Validated, but not used.

        Returns
        -------
        self
        """
        X = self._check_rows(X, reset=True)
        checked_weights(sample_weight, X)
        resolve_device(self.device)
        density, identity = StandardNormalDensity(X.shape[1]), Standardizer(X, enabled=False)
        self._set_fitted(self._attributes(density, identity, seed=0))
        return self

    def make_density(self, n_features: int, generator: torch.Generator) -> Density:
        """Return N(0, I).

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Not used: there is nothing to initialise.

        Returns
        -------
        torch.nn.Module
            A `skevae.densities.StandardNormalDensity`.
        """
        return StandardNormalDensity(n_features)
