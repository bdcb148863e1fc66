"""NeuralPrior: an energy given by a neural network, as a prior and as an estimator."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from sklearn.utils._param_validation import Interval

from skevae.densities.neural import NeuralDensity
from skevae.estimators.base import TRAINING_CONSTRAINTS, layer_sizes
from skevae.networks import NETWORKS
from skevae.networks.build import build_network
from skevae.partitions import DENSITY_PARTITIONS
from skevae.priors.chains import MarkovPrior
from skevae.samplers import GRADIENT_SAMPLERS
from skevae.samplers.base import Sampler
from skevae.utils.constraints import KeyOf
from skevae.utils.random import SEED_BOUND, make_generator


class NeuralPrior(MarkovPrior):
    r"""Energy-based model: a Gaussian with a correction by a neural network.

    .. math::
        p(x) = e^{-E(x)} / Z, \qquad
        E(x) = \tfrac12 \sum_i \frac{(x_i - \mu_i)^2}{\sigma_i^2} + b \tanh(f(x) / b)

    The bound b on the network's term makes exp(-E) integrable, with Gaussian tails, for every
    network. Without it, training could increase the density far from the data without limit, and ln
    Z might not exist. The correction can change density ratios by a factor of up to e^2b.

    Training uses persistent Langevin chains. ln Z is estimated from below and above by annealed
    importance sampling from a Gaussian, forwards and backwards. Rows are sampled by sequential
    Monte Carlo along the same path (a population is annealed from the Gaussian and resampled by its
    weights), because chains from noise would not cross between modes.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(64, 64)
        Widths of the network's hidden layers.
    network : {"mlp", "densenet", "resnet"} or callable, default="mlp"
        f. A network object has its own parameters, such as ``MLP(activation="tanh")``. A callable
        ``(n_inputs, n_outputs, hidden_layer_sizes) -> torch.nn.Module`` builds a differentiable map
        from (..., n_features) to (..., 1) or (...). It is kept in evaluation mode, because an
        energy must be a deterministic function of x.
    bound : float, default=20.0
        b, in nats.
    sampler : str or sampler object, default="metropolis-langevin"
        Transition of the chains in training: "langevin" steps, or "metropolis-langevin" with a
        Metropolis test, which removes their bias. An object from `skevae.samplers`, such as
        ``Langevin(n_steps=20, step_size=0.1)``, has its own parameters, which can be searched as
        ``sampler__step_size`` and so on. Sampling and ln Z always use Metropolis tests.
    n_langevin_steps : int, default=10
        Steps of a chain between two parameter updates. Only used when ``sampler`` is a name: an
        object has its own ``n_steps``.
    step_size : float, default=0.5
        Largest step size for sampling and ln Z, and for the chains when ``sampler`` is a name, in
        units of each sigma. Steps alternate between 1, 1/2, 1/4 and 1/8 of it.
    partition : str, default="auto"
        How training computes the gradient of ln Z: "persistent" chains; "contrastive" divergence
        with chains from the data; "contrastive-from-noise"; "auto" is "persistent". "exact" raises
        an error. An `EnergyVAE` with ``partition="auto"`` uses this value.
    n_chains : int, default=256
        Number of persistent chains.
    n_annealing_steps : int, default=500
        Steps of the annealing runs that bound ln Z and draw samples. More steps give a narrower
        interval.
    standardize : bool, default=True
        Whether `fit` standardises X. All attributes and densities are on the scale of X.
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
        directory. Files are not deleted.
    device : str or torch.device, default="auto"
        "auto" uses the first CUDA device if there is one, and the CPU otherwise.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, minibatches and chains, and the default for `sample`.
    verbose : int, default=0
        If 1, print one line per epoch.

    Attributes
    ----------
    log_partition_ : float
        ln Z in nats; the upper end of the interval.
    log_partition_interval_ : tuple (low, high)
        Estimates of bounds of ln Z, by annealed importance sampling forwards and backwards;
        ``log_partition_interval_.is_certified`` is False.
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

    References
    ----------
    .. [1] Tieleman (2008). "Training restricted Boltzmann machines using approximations to the
       likelihood gradient".
    .. [2] Neal (2001). "Annealed importance sampling".
    .. [3] Grosse, Ancha & Roy (2016). "Measuring the reliability of MCMC inference with
       bidirectional Monte Carlo".
    .. [4] Del Moral, Doucet & Jasra (2006). "Sequential Monte Carlo samplers".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import NeuralPrior
    >>> X = load_iris().data
    >>> prior = NeuralPrior((16,), max_iter=5, random_state=0).fit(X)
    >>> low, high = prior.log_partition_interval_
    >>> low <= high == prior.log_partition_
    True
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **TRAINING_CONSTRAINTS,
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "network": [KeyOf(NETWORKS), callable],
        "bound": [Interval(Real, 0, None, closed="neither")],
        "sampler": [KeyOf(GRADIENT_SAMPLERS), Sampler],
        "n_langevin_steps": [Interval(Integral, 1, None, closed="left")],
        "step_size": [Interval(Real, 0, None, closed="neither")],
        "partition": [KeyOf(DENSITY_PARTITIONS, "auto")],
        "n_chains": [Interval(Integral, 1, None, closed="left")],
        "n_annealing_steps": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        hidden_layer_sizes=(64, 64),
        *,
        network="mlp",
        bound=20.0,
        sampler="metropolis-langevin",
        n_langevin_steps=10,
        step_size=0.5,
        partition="auto",
        n_chains=256,
        n_annealing_steps=500,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.network = network
        self.bound = bound
        self.sampler = sampler
        self.n_langevin_steps = n_langevin_steps
        self.step_size = step_size
        self.partition = partition
        self.n_chains = n_chains
        self.n_annealing_steps = n_annealing_steps

    def make_density(self, n_features: int, generator: torch.Generator) -> NeuralDensity:
        """Return an untrained energy.

        Parameters
        ----------
        n_features : int
        generator : torch.Generator
            Generator of the initial parameters, on the CPU.

        Returns
        -------
        torch.nn.Module
            A `NeuralDensity`.

        Raises
        ------
        TypeError, ValueError
            If a callable ``network`` does not return a module, or the module maps to another shape.
        """
        seed = int(torch.randint(SEED_BOUND, (), generator=generator))
        sizes = layer_sizes(self.hidden_layer_sizes)
        network = build_network(self.network, n_features, 1, sizes, make_generator(seed))
        return NeuralDensity(
            n_features,
            network,
            bound=self.bound,
            sampler=self.sampler,
            n_langevin_steps=self.n_langevin_steps,
            step_size=self.step_size,
            n_chains=self.n_chains,
            n_annealing_steps=self.n_annealing_steps,
        )
