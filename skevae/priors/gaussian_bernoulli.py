"""GaussianBernoulliRBMPrior: the Gaussian-Bernoulli RBM, as a prior and as an estimator."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from skevae.densities.base import Density
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.estimators.base import TRAINING_CONSTRAINTS
from skevae.estimators.standardizer import Standardizer
from skevae.estimators.transformer import StreamTransformer
from skevae.partitions import DENSITY_PARTITIONS
from skevae.priors.chains import MarkovPrior
from skevae.samplers import SAMPLERS
from skevae.samplers.base import Sampler
from skevae.samplers.gibbs import block_gibbs
from skevae.utils.constraints import KeyOf
from skevae.utils.device import copy_to, own_context, resolve_device
from skevae.utils.random import make_generator


class GaussianBernoulliRBMPrior(ClassNamePrefixFeaturesOutMixin, StreamTransformer, MarkovPrior):
    r"""Gaussian-Bernoulli restricted Boltzmann machine with a normalised likelihood.

    .. math::
        p(x) = e^{-E(x)} / Z, \qquad
        E(x) = \tfrac12 \sum_i \frac{(x_i - \mu_i)^2}{\sigma_i^2}
               - \sum_j \mathrm{softplus}\Big(b_j + \sum_i W_{ij} \frac{x_i}{\sigma_i^2}\Big)

    The model is a mixture of 2^H Gaussians with common scales, whose weights form an Ising model
    over the hidden units. The exact partition function costs one matrix product (2^(H+1) flops), so
    `score` is exact up to a few dozen hidden units, and training is exact maximum likelihood up to
    about two dozen.

    As ``prior=`` of `EnergyVAE`, it is trained inside the autoencoder. On its own, it is the
    counterpart of `sklearn.neural_network.BernoulliRBM` for real-valued data.

    Parameters
    ----------
    n_components : int, default=20
        Number H of binary hidden units.
    sampler : str or sampler object, default="gibbs"
        Transition of Markov chains: "gibbs" (block Gibbs), "langevin", "metropolis-langevin" (with
        a Metropolis test), "gibbs-langevin" (Liao et al. 2022), "metropolis-gibbs-langevin",
        "parallel-tempering" (crosses between modes), or "exact" (independent draws). An object from
        `skevae.samplers`, such as ``ParallelTempering(n_replicas=20)`` or
        ``Langevin(step_size=0.1)``, has its own parameters, which can be searched as
        ``sampler__n_replicas`` and so on.
    n_gibbs_steps : int, default=1
        Elementary steps of a transition; k of contrastive divergence. Only used when ``sampler`` is
        a name: an object has its own ``n_steps``.
    partition : str, default="auto"
        How training computes ln Z or its gradient: "exact" at every step; "persistent" chains
        (stochastic maximum likelihood); "contrastive" divergence with chains from the data;
        "contrastive-from-noise", as modified by Liao et al.; "auto" is "exact" for up to 24 hidden
        units, else "persistent". An `EnergyVAE` with ``partition="auto"`` uses this value.
    n_chains : int, default=256
        Number of persistent chains.
    learn_scale : bool, default=True
        Whether the visible scales sigma are learned. Otherwise they stay at the standard
        deviation of the feature (with ``standardize``) or at 1.
    initial_scale : float, default=0.1
        Standard deviation of the initial weights.
    standardize : bool, default=True
        Whether `fit` standardises X. All attributes and densities are on the scale of X.
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
        directory. Files are not deleted.
    device : str or torch.device, default="auto"
        "auto" uses the first CUDA device if there is one, and the CPU otherwise.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, minibatches and chains, and the default for `sample`.
    verbose : int, default=0
        If 1, print one line per epoch.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        W transposed, on the scale of X.
    intercept_hidden_ : ndarray of shape (n_components,)
        b.
    intercept_visible_ : ndarray of shape (n_features,)
        mu.
    scale_ : ndarray of shape (n_features,)
        sigma.
    log_partition_ : float
        ln Z in nats; the upper end of the interval if it is not exact.
    log_partition_interval_ : tuple (low, high)
        Bounds of ln Z; equal if it is exact. With more than 36 hidden units, they contain ln Z with
        a probability of 0.999 if ``log_partition_interval_.is_certified`` is True. Otherwise the
        prior is hard to normalise, and they are estimates from Markov chains.
    history_ : dict of str to ndarray of shape (`n_iter_`,)
        "objective" (mean log-likelihood of the training minibatches), "energy", "log_partition" and
        "validation", one entry an epoch, in nats. If ln Z is not exact, it is estimated by short
        annealing runs (in training, at most 1000 steps ago). The estimates are too low in
        expectation, so "objective" and "validation" are **too high**. `score` is not affected. Set
        by `fit` and `partial_fit`.
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
    sklearn.neural_network.BernoulliRBM : The same with binary visible units, without a likelihood.

    References
    ----------
    Liao, Kornblith, Ren, Fleet & Hinton (2022). "Gaussian-Bernoulli RBMs without tears".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import GaussianBernoulliRBMPrior
    >>> X = load_iris().data
    >>> rbm = GaussianBernoulliRBMPrior(8, max_iter=50, random_state=0).fit(X)
    >>> rbm.transform(X).shape
    (150, 8)
    >>> low, high = rbm.log_partition_interval_
    >>> low == high
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **TRAINING_CONSTRAINTS,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "sampler": [KeyOf(SAMPLERS), Sampler],
        "n_gibbs_steps": [Interval(Integral, 1, None, closed="left")],
        "partition": [KeyOf(DENSITY_PARTITIONS, "auto")],
        "n_chains": [Interval(Integral, 1, None, closed="left")],
        "learn_scale": ["boolean"],
        "initial_scale": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        n_components=20,
        *,
        sampler="gibbs",
        n_gibbs_steps=1,
        partition="auto",
        n_chains=256,
        learn_scale=True,
        initial_scale=0.1,
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
        self.n_components = n_components
        self.sampler = sampler
        self.n_gibbs_steps = n_gibbs_steps
        self.partition = partition
        self.n_chains = n_chains
        self.learn_scale = learn_scale
        self.initial_scale = initial_scale
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.density_.n_hidden

    def make_density(self, n_features: int, generator: torch.Generator) -> GaussianBernoulliDensity:
        """Return an untrained RBM.

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Generator of the initial weights, on the CPU.

        Returns
        -------
        torch.nn.Module
            A `GaussianBernoulliDensity`.

        Raises
        ------
        ValueError
            If a parameter of the sampler is out of its range, or there are too many hidden units
            for it.
        """
        return GaussianBernoulliDensity(
            n_features,
            self.n_components,
            generator=generator,
            sampler=self.sampler,
            n_gibbs_steps=self.n_gibbs_steps,
            n_chains=self.n_chains,
            learn_scale=self.learn_scale,
            initial_scale=self.initial_scale,
        )

    def _attributes(
        self, density: Density, standardizer: Standardizer, seed: int
    ) -> dict[str, Any]:
        assert isinstance(density, GaussianBernoulliDensity)
        energy = copy_to(density, "cpu", torch.float64).as_energy()
        weight, bias, mean, variance = (
            tensor.detach().cpu().numpy()
            for tensor in (energy.weight, energy.hidden_bias, energy.visible_mean, energy.variance)
        )
        centre, spread = standardizer.centre, standardizer.spread
        scale = spread * np.sqrt(variance)
        components = (spread[:, None] * weight).T
        return {
            **super()._attributes(density, standardizer, seed),
            "components_": components,
            "intercept_hidden_": bias - components @ (centre / scale**2),
            "intercept_visible_": centre + spread * mean,
            "scale_": scale,
        }

    # --- calls on the fitted model ----------------------------------------------------------------

    def transform(self, X):
        """Probability of each hidden unit given the row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            P(h = 1 | x), in the dtype of X.
        """
        return self._evaluate(X, "hidden_probabilities")

    def inverse_transform(self, H):
        """Mean of x given hidden units.

        Parameters
        ----------
        H : array-like of shape (n_samples, n_components)
            Hidden units, or their probabilities.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            E[x | h] = mu + W h, on the scale of X, in the dtype of H.
        """
        check_is_fitted(self, "density_")
        H = self._check_latent(H, self.density_.n_hidden, "H")
        return (self.intercept_visible_ + H @ self.components_).astype(H.dtype, copy=False)

    def reconstruct(self, X):
        """Mean of x given the hidden probabilities of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            ``inverse_transform(transform(X))``.
        """
        return self.inverse_transform(self._evaluate(X, "hidden_probabilities"))

    @own_context()
    def gibbs(self, X, random_state=None):
        """Make one block-Gibbs sweep from each row: h ~ p(h | x), then x ~ p(x | h).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        random_state : int, RandomState instance or None, default=None
            None uses the ``random_state`` of the estimator.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        check_is_fitted(self, "density_")
        X = self._check_rows(X)
        device = resolve_device(self.device)
        density = copy_to(self.density_, device, torch.float64)
        generator = make_generator(self._seed_for(random_state), device)
        z = self._standardizer.tensor(X, device, torch.float64)
        z = block_gibbs(density.as_energy(), z, generator)
        return self._standardizer.rows(z).astype(X.dtype, copy=False)
