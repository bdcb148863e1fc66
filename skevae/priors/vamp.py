"""VampPrior: a mixture of the autoencoder's posteriors, as a prior and as an estimator."""

from __future__ import annotations

from numbers import Integral
from typing import Any, Self

import torch
from sklearn.utils._param_validation import Interval

from skevae.densities.base import Density
from skevae.densities.vamp import VampDensity
from skevae.estimators.base import TRAINING_CONSTRAINTS
from skevae.estimators.standardizer import Standardizer
from skevae.priors.trained import TrainedDensityPrior
from skevae.utils.device import copy_to


class VampPrior(TrainedDensityPrior):
    r"""Variational mixture of posteriors (Tomczak & Welling 2018).

    .. math::
        p(z) = \sum_k w_k \, q(z \mid u_k)

    Inside an `EnergyVAE`, q is the encoder's posterior and the u_k are K learned pseudo-inputs.
    They are initialised at training rows (and stay in [0, 1] for binary data without categories):
    the prior is the aggregated posterior of K pseudo-inputs. After training, ``prior_`` stores the
    K posteriors, and scores and samples without the autoencoder.

    On its own, there is no encoder, and the identity is used instead: the model is a mixture of K
    equal Gaussians around learned centres u_k, with one learned scale for each feature.

    Parameters
    ----------
    n_components : int, default=64
        Number K of pseudo-inputs.
    learn_weights : bool, default=False
        Whether the weights w are learned; otherwise they are 1/K.
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
        Seed of initial pseudo-inputs and minibatches, and the default for `sample`.
    verbose : int, default=0
        If 1, print one line per epoch.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        w.
    means_ : ndarray of shape (n_components, n_features)
        Means of the K posteriors, on the scale of X.
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
    GaussianMixturePrior : A mixture that does not depend on the encoder.

    References
    ----------
    .. [1] Tomczak & Welling (2018). "VAE with a VampPrior".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE, VampPrior
    >>> X = load_iris().data
    >>> vae = EnergyVAE(2, prior=VampPrior(8), max_iter=5, random_state=0).fit(X)
    >>> vae.prior_.means_.shape
    (8, 2)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **TRAINING_CONSTRAINTS,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "learn_weights": ["boolean"],
    }

    def __init__(
        self,
        n_components=64,
        *,
        learn_weights=False,
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
        self.learn_weights = learn_weights

    def make_density(self, n_features: int, generator: torch.Generator) -> VampDensity:
        """Return an untrained mixture, whose encoder is the identity until another is attached.

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Generator of the initial parameters, on the CPU.

        Returns
        -------
        torch.nn.Module
            A `VampDensity`.
        """
        return VampDensity(
            n_features,
            self.n_components,
            generator=generator,
            learn_weights=self.learn_weights,
        )

    def with_density(self, density: Density, random_state: int) -> Self:
        """Return a fitted copy of this estimator that does not need the autoencoder.

        Parameters
        ----------
        density : torch.nn.Module
            Created by `make_density`, then trained; on the CPU.
        random_state : int
            Not used: ln Z is exact.

        Returns
        -------
        estimator
            A clone of this one, fitted.
        """
        assert isinstance(density, VampDensity)
        return super().with_density(density.frozen(), random_state)

    def _attributes(
        self, density: Density, standardizer: Standardizer, seed: int
    ) -> dict[str, Any]:
        assert isinstance(density, VampDensity)
        exact = copy_to(density, "cpu", torch.float64)
        with torch.no_grad():
            posterior, outputs = exact.components()
            means, weights = posterior.mean(outputs).numpy(), exact.weights().numpy()
        return {
            **super()._attributes(density, standardizer, seed),
            "weights_": weights,
            "means_": standardizer.centre + standardizer.spread * means,
        }
