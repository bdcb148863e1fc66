"""GaussianMixturePrior: a learned mixture of Gaussians, as a prior and as an estimator."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from sklearn.utils._param_validation import Interval

from skevae.densities.base import Density
from skevae.densities.mixture import GaussianMixtureDensity
from skevae.estimators.base import TRAINING_CONSTRAINTS
from skevae.estimators.standardizer import Standardizer
from skevae.priors.trained import TrainedDensityPrior
from skevae.utils.device import copy_to


class GaussianMixturePrior(TrainedDensityPrior):
    r"""Mixture of diagonal Gaussians with learned weights, means and scales.

    .. math::
        p(x) = \sum_k w_k \, N(x; m_k, \mathrm{diag}(s_k^2))

    Normalised in closed form (the energy is -ln p, ln Z = 0) and sampled exactly. As ``prior=`` of
    `EnergyVAE`, it is trained inside the autoencoder (Dilokthanakul et al. 2016; Jiang et al.
    2017). On its own, it is the same model as `sklearn.mixture.GaussianMixture` with
    ``covariance_type="diag"``, but fitted by gradient steps from k-means++ centres, with early
    stopping.

    Parameters
    ----------
    n_components : int, default=20
        Number K of Gaussians.
    min_scale : float, default=0.01
        Lower bound of every s, in standard deviations of each feature (in units of X with
        ``standardize=False``). It limits the density of discrete columns.
    standardize : bool, default=True
        Whether `fit` standardises X internally. All attributes and densities are on the scale of X.
    learning_rate : float, default=0.01
        Learning rate of Adam.
    batch_size : int or "auto", default="auto"
        Minibatch size. "auto" is 1/32 of the number of training rows, clipped to [16, 256].
    max_iter : int, default=200
        Maximum number of epochs.
    max_time : float, default=None
        Seconds after which training stops; see `EnergyVAE`.
    early_stopping : bool, default=True
        Whether to hold out rows, stop when their log-likelihood no longer improves, and keep the
        best state.
    validation_fraction : float, default=0.1
        Fraction of the rows that are held out.
    n_iter_no_change : int, default=10
        Training stops after this number of epochs without an improvement of more than ``tol``.
    tol : float, default=1e-4
        Minimum improvement, in nats; see ``n_iter_no_change``.
    warm_start : bool, default=False
        Whether `fit` continues from the fitted state, with the standardisation of the first fit.
    checkpoint_dir : str or path, default=None
        Directory in which `fit` saves its training state, in a file named by a hash of the
        parameters and X. If `fit` is interrupted, the same call resumes from there and gives the
        same result. If training was complete, it returns at once. Several fits can share a
        directory. Files are not deleted, and contain no pickles.
    device : str or torch.device, default="auto"
        "auto" uses the first CUDA device if there is one, and the CPU otherwise.
    random_state : int, RandomState instance or None, default=None
        Seed of initial means and minibatches, and the default for `sample`.
    verbose : int, default=0
        If 1, print one line per epoch.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        w.
    means_ : ndarray of shape (n_components, n_features)
        m, on the scale of X.
    covariances_ : ndarray of shape (n_components, n_features)
        s squared, on the scale of X; named as in `sklearn.mixture.GaussianMixture`.
    log_partition_ : float
        ln Z in nats, in closed form, for the energy on the scale of X.
    log_partition_interval_ : tuple (low, high)
        Twice ``log_partition_``, which is exact.
    history_ : dict of str to ndarray of shape (`n_iter_`,)
        "objective" (mean log-likelihood of the training minibatches), "energy", "log_partition"
        and, with early stopping, "validation", one entry per epoch, in nats. Set by `fit` and
        `partial_fit`.
    n_iter_ : int
        Number of epochs. Set by `fit` and `partial_fit`.
    best_n_iter_ : int
        The epoch, counted from 1, whose state was kept. Set by `fit` and
        `partial_fit`.
    density_ : torch.nn.Module
        The trained module, in standardised coordinates, on the CPU.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    GaussianBernoulliRBMPrior : A mixture of 2^H Gaussians that share their scales.
    VampPrior : A mixture of the autoencoder's own posteriors.

    References
    ----------
    .. [1] Dilokthanakul et al. (2016). "Deep unsupervised clustering with Gaussian mixture
       variational autoencoders".
    .. [2] Jiang et al. (2017). "Variational deep embedding: an unsupervised and generative approach
       to clustering".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import GaussianMixturePrior
    >>> X = load_iris().data
    >>> prior = GaussianMixturePrior(3, max_iter=20, random_state=0).fit(X)
    >>> prior.means_.shape
    (3, 4)
    >>> prior.sample(2).shape
    (2, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **TRAINING_CONSTRAINTS,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "min_scale": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        n_components=20,
        *,
        min_scale=0.01,
        standardize=True,
        learning_rate=0.01,
        batch_size="auto",
        max_iter=200,
        max_time=None,
        early_stopping=True,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        warm_start=False,
        checkpoint_dir=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            standardize=standardize,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_iter=max_iter,
            max_time=max_time,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change,
            tol=tol,
            warm_start=warm_start,
            checkpoint_dir=checkpoint_dir,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.n_components = n_components
        self.min_scale = min_scale

    def make_density(self, n_features: int, generator: torch.Generator) -> GaussianMixtureDensity:
        """Return an untrained mixture.

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Generator of the initial parameters, on the CPU.

        Returns
        -------
        torch.nn.Module
            A `GaussianMixtureDensity`.
        """
        return GaussianMixtureDensity(
            n_features, self.n_components, generator=generator, min_scale=self.min_scale
        )

    def _attributes(
        self, density: Density, standardizer: Standardizer, seed: int
    ) -> dict[str, Any]:
        assert isinstance(density, GaussianMixtureDensity)
        exact = copy_to(density, "cpu", torch.float64)
        weights, means, variances = (
            tensor.detach().numpy() for tensor in (exact.weights(), exact.means, exact.variances())
        )
        return {
            **super()._attributes(density, standardizer, seed),
            "weights_": weights,
            "means_": standardizer.centre + standardizer.spread * means,
            "covariances_": standardizer.spread**2 * variances,
        }
