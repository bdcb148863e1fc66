"""FlowPrior: a normalising flow, as a prior and as a density estimator."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from sklearn.utils._param_validation import Interval

from skevae.densities.flow import FLOWS, FlowDensity
from skevae.estimators.base import TRAINING_CONSTRAINTS, layer_sizes
from skevae.priors.trained import TrainedDensityPrior
from skevae.utils.constraints import KeyOf


class FlowPrior(TrainedDensityPrior):
    r"""Autoregressive normalising flow.

    .. math::
        \ln p(x) = \ln N(t(x); 0, I) + \ln |\det \partial t / \partial x|

    Normalised by construction (the energy is -ln p, ln Z = 0) and sampled exactly. Needs zuko:
    ``pip install "skevae[flows]"``.

    Parameters
    ----------
    n_transforms : int, default=3
        Number of autoregressive maps that t is composed of.
    flow : {"nsf", "maf"}, default="nsf"
        Neural spline flow (Durkan et al. 2019), whose maps are rational-quadratic splines between
        -5 and 5 and the identity beyond, or masked autoregressive flow (Papamakarios et al. 2017),
        whose maps are affine.
    hidden_layer_sizes : int or array-like of int, default=(64, 64)
        Widths of the hidden layers of each map's network.
    standardize : bool, default=True
        Whether `fit` standardises X internally. All attributes and densities are on the scale of X.
    learning_rate : float, default=3e-3
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
        Seed of initial weights and minibatches, and the default for `sample`.
    verbose : int, default=0
        If 1, print one line per epoch.

    Attributes
    ----------
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
        "flow": [KeyOf(FLOWS)],
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
            Generator of the initial parameters, on the CPU.

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
