"""FlowPrior: a normalising flow, as a prior and by itself."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from sklearn.utils._param_validation import Interval, StrOptions

from skevae.densities.flow import FLOWS, FlowDensity
from skevae.estimators.base import TRAINING_CONSTRAINTS, layer_sizes
from skevae.priors.base import TrainedDensityPrior


class FlowPrior(TrainedDensityPrior):
    r"""Autoregressive normalising flow.

    .. math::
        \ln p(x) = \ln N(t(x); 0, I) + \ln |\det \partial t / \partial x|

    Normalised by construction (the energy is -ln p, ln Z = 0) and sampled exactly. Needs zuko:
    ``pip install "skevae[flows]"``.

    Parameters
    ----------
    n_transforms : int, default=3
        Autoregressive maps that make up t.
    flow : {"nsf", "maf"}, default="nsf"
        Neural spline flow (Durkan et al. 2019), whose maps are rational-quadratic splines between
        -5 and 5 and the identity beyond, or masked autoregressive flow (Papamakarios et al. 2017),
        whose maps are affine.
    hidden_layer_sizes : int or array-like of int, default=(64, 64)
        Widths of the hidden layers of each map's network.
    standardize : bool, default=True
        Whether `fit` standardises X inside. All attributes and densities are on the scale of X.
    learning_rate : float, default=3e-3
        Of Adam.
    batch_size : int or "auto", default="auto"
        Rows of a minibatch. "auto" is a 32nd of the training rows, but at least 16 and at most 256.
    max_iter : int, default=200
        Epochs.
    max_time : float, default=None
        Seconds after which training stops; see `EnergyVAE`.
    early_stopping : bool, default=True
        Whether to hold out rows, stop when their log-likelihood does not rise, and keep the best.
    validation_fraction : float, default=0.1
    n_iter_no_change : int, default=10
        Epochs without a rise of more than ``tol`` after which training stops.
    tol : float, default=1e-4
        In nats.
    warm_start : bool, default=False
        Whether `fit` goes on from the fitted state, in the coordinates of the first fit.
    checkpoint_dir : str or path, default=None
        Directory where `fit` keeps the state of its training, in a file named by a hash of
        parameters and X. The same fit, called again after it was cut off, goes on from there to
        the same result (and returns at once if it was over); the fits of a search can share a
        directory. Files stay until they are deleted. They hold no pickles.
    device : str or torch.device, default="auto"
        "auto" is the first CUDA device if there is one, else the CPU.
    random_state : int, RandomState instance or None, default=None
        Of initial weights and minibatches, and of `sample` unless it is given one.
    verbose : int, default=0
        1 prints a line an epoch.

    Attributes
    ----------
    log_partition_ : float
        ln Z in nats, of the energy on the scale of X: closed form.
    log_partition_interval_ : tuple (low, high)
        The same twice.
    history_ : dict of str to ndarray of shape (`n_iter_`,)
        "objective" (mean log-likelihood of the training minibatches), "energy", "log_partition"
        and "validation", one entry an epoch, in nats. Only after `fit`.
    n_iter_ : int
        Epochs run. Only after `fit`.
    best_n_iter_ : int
        The epoch, counted from 1, whose state was kept. Only after `fit`.
    density_ : torch.nn.Module
        The trained module, in standardised coordinates, on the CPU.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    References
    ----------
    .. [1] Durkan, Bekasov, Murray & Papamakarios (2019). "Neural spline flows".
    .. [2] Papamakarios, Pavlakou & Murray (2017). "Masked autoregressive flow for density
       estimation".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import FlowPrior
    >>> X = load_iris().data
    >>> prior = FlowPrior(hidden_layer_sizes=(16,), max_iter=5, random_state=0).fit(X)
    >>> prior.sample(2).shape
    (2, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **TRAINING_CONSTRAINTS,
        "n_transforms": [Interval(Integral, 1, None, closed="left")],
        "flow": [StrOptions(set(FLOWS))],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_transforms=3,
        *,
        flow="nsf",
        hidden_layer_sizes=(64, 64),
        standardize=True,
        learning_rate=3e-3,
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
        self.n_transforms = n_transforms
        self.flow = flow
        self.hidden_layer_sizes = hidden_layer_sizes

    def make_density(self, n_features: int, generator: torch.Generator) -> FlowDensity:
        """Return an untrained flow.

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Of the initial parameters, on the CPU.

        Returns
        -------
        torch.nn.Module
            A `FlowDensity`.

        Raises
        ------
        ImportError
            If zuko is not installed.
        """
        return FlowDensity(
            n_features,
            flow=self.flow,
            n_transforms=self.n_transforms,
            hidden_layer_sizes=layer_sizes(self.hidden_layer_sizes),
            generator=generator,
        )
