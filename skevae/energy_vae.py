"""EnergyVAE: the variational autoencoder with an energy-based prior, as an estimator."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import Bunch, check_array
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skevae.densities.base import Density
from skevae.densities.ex_post import (
    DensityEstimatorInstance,
    EstimatorDensity,
    check_can_sample,
    fit_density,
)
from skevae.estimators.base import (
    TORCH_DTYPES,
    TRAINING_CONSTRAINTS,
    TorchDensityEstimator,
    TrainingState,
    kept,
    layer_sizes,
    trainable,
)
from skevae.estimators.callbacks import EpochCallbacks
from skevae.estimators.standardizer import Standardizer, as_tensor
from skevae.evaluation.aggregate import aggregated_draws, aggregated_moments
from skevae.evaluation.chunks import chunk_sizes, memory_budget, row_slices, widest_output
from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import (
    DEFENSIVE_SHARE,
    METHODS,
    PROPOSAL_FREE_METHODS,
    Defence,
    held_out_bound,
    make_defence,
)
from skevae.evaluation.importance import log_weights as weigh
from skevae.evaluation.stages import (
    MIN_PILOT_DRAWS,
    PILOT,
    STAGES,
    by_number_of_draws,
    draws_needed,
)
from skevae.interpolation import raise_low_points, straight_path
from skevae.likelihoods import LIKELIHOODS
from skevae.likelihoods.bernoulli import binarize
from skevae.networks.precision import PRECISIONS
from skevae.networks.trunks import ACTIVATIONS, NETWORKS, network_builder
from skevae.partitions import PARTITIONS, resolve_partition
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.training import OBJECTIVES
from skevae.training.loss import TrainingLoss
from skevae.training.parameters import ParameterVector, make_optimizer
from skevae.utils.device import copy_to, graph_recorder, resolve_device
from skevae.utils.random import make_generator, quasi_normal, seeded_globals, spawn
from skevae.vae import VAE

# An ex-post density is fitted to at least so many draws, the same number for each row: with fewer
# it takes the noise of the draws for structure. One for each row is enough where rows are many.
EX_POST_DRAWS = 1000


class _State(NamedTuple):
    """What a fit decides once and every later call goes by."""

    standardizer: Standardizer
    prior: Any  # unfitted
    partition_seed: int
    score_seed: int


class EnergyVAE(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, CallbackSupportMixin, TorchDensityEstimator
):
    r"""Variational autoencoder with an energy-based prior: a deep density estimator.

    Rows x are explained by latents z with an unnormalised prior,

    .. math::
        p(x) = \int p(x \mid z) \, \frac{e^{-E(z)}}{Z} \, dz,

    trained through an encoder's posterior q(z | x) (Kingma & Welling 2014). By default the prior is
    a Gaussian-Bernoulli RBM, a mixture of 2^H Gaussians whose ln Z is exact; the system is that of
    "Variational Inference with Unnormalized Priors", and its estimators are here under their names.

    `score` never flatters: log-likelihoods are importance-sampled, normalised, in nats, on the
    scale of X, and err low in expectation.

    Parameters
    ----------
    n_components : int, default=16
        Number of latents D.
    hidden_layer_sizes : int or array-like of int, default=(128, 128)
        Widths of the encoder's hidden layers; the decoder mirrors them.
    network : {"mlp", "densenet", "resnet"} or callable, default="mlp"
        "densenet": every layer sees the input and all earlier layers (the paper's toy trunk).
        "resnet": every layer adds to what it is given. A callable
        ``(n_inputs, n_outputs, hidden_layer_sizes) -> torch.nn.Module`` builds its own;
        ``activation`` and ``weight_norm`` are then its affair. Checkpoints in it
        (`torch.utils.checkpoint`) have to be non-reentrant, and parameters stay where they are: a
        forward that assigns to their ``.data`` is refused.
    activation : {"silu", "relu", "gelu", "elu", "tanh", "logistic", "identity"}, default="silu"
    weight_norm : bool, default=False
        Whether linear layers are weight-normalised.
    prior : str or prior estimator, default="grbm"
        "grbm" is ``GaussianBernoulliRBMPrior()``, "normal" N(0, I), "mixture"
        ``GaussianMixturePrior()``, "vamp" ``VampPrior()``, "flow" ``FlowPrior()`` and "neural"
        ``NeuralPrior()``. An unfitted prior estimator brings parameters of its own, which
        grid-search as ``prior__n_components`` and so on.
    posterior : {"diagonal", "fixed", "iaf", "iaf-volume-preserving"}, default="diagonal"
        "diagonal": N(m(x), diag(s(x)^2)), the paper's EVAE. "fixed": N(m(x), I), its ECVVAE.
        "iaf": m(x) + s(x) f(noise), where the inverse autoregressive flow f, given the row,
        correlates the latents and bends their law (Kingma et al. 2016); "iaf-volume-preserving":
        f shifts without scaling. They need zuko (``pip install "skevae[flows]"``). Their moments
        have no closed form: `transform` averages over 256 fixed points of noise. Their density at
        a given z takes a pass for each latent, so ``partition="aggregate"`` is slow with them.
    likelihood : str, default="gaussian-mixture"
        With "gaussian-mixture" the decoder predicts a mixture of two normals for each feature
        from the latents, which suits columns that are nearly discrete, bounded or heavy-tailed;
        with "gaussian-rowwise" one normal, mean and scale; with "gaussian" its mean, and one scale
        for each feature is learned. "bernoulli" is for X in [0, 1]: values
        strictly between are probabilities, and every visit in training draws a fresh binary row
        (dynamic binarisation).
    min_scale : float, default=0.01
        Lower bound of the decoder's scales, in standard deviations of each feature (in units of
        X with ``standardize=False``). It bounds the density on discrete columns.
    objective : {"iwae", "iwae-dreg", "elbo"}, default="iwae"
        The importance-weighted bound (Burda et al. 2016), or the evidence lower bound. "iwae-dreg"
        is the former with the doubly reparametrised gradient of the encoder (Tucker et al. 2019),
        of the same mean and usually less variance; it needs ``posterior="diagonal"`` or "fixed",
        and a ``partition`` other than "aggregate" and "posterior".
    partition : str, default="auto"
        How training obtains ln Z.

        - "exact": the matrix product of `GaussianBernoulliRBMPrior`, or a closed form.
        - "persistent": its gradient, from persistent Markov chains; for any size of prior.
        - "contrastive", "contrastive-from-noise": short chains, biased; see
          `GaussianBernoulliRBMPrior`.
        - "aggregate": importance sampling from the minibatch's pooled posteriors; for few latents.
        - "posterior": the row's own draws, eq. 3 of the paper. **Not a bound**: what it reports
          rises without limit while the true likelihood falls. To reproduce the paper.
        - "auto": what the prior estimator says, else exact where a training step can afford it
          (up to 24 hidden units), else persistent.
    n_draws : int, default=8
        Latent draws for each row and visit.
    ex_post : density estimator, default=None
        An unfitted scikit-learn density estimator with ``score_samples`` and ``sample``
        (`GaussianMixture`, `KernelDensity`, `GaussianBernoulliRBMPrior`, another `EnergyVAE`). A
        clone of it is fitted, after training, to draws of the aggregated posterior of all rows
        given to `fit` (to those of each call, for `partial_fit`; one draw of each row, more where
        rows are fewer than 1000) and takes the prior's place as the law of
        the latents in `score_samples`, `log_likelihood` and `sample`. Its parameters grid-search
        as ``ex_post__n_components`` and so on. Scores call its ``score_samples`` for each of
        ``n_score_draws`` draws of each row, which takes long for a `KernelDensity` on many rows,
        and for an `EnergyVAE` with many ``n_score_draws`` of its own. They err low if what it
        scores is the density of what it samples, or less.
    standardize : bool, default=True
        Whether X is standardised inside (not with "bernoulli"). Scores are on the scale of X
        all the same.
    kl_warmup : float, default=0.05
        Part of ``max_iter`` over which the weight of prior and posterior terms rises from 0 to 1.
        Without it a model with a learned prior is easily caught in a poor optimum that ignores
        its latents. Early stopping starts when it is over.
    learning_rate : float, default=3e-3
        Of Adam.
    batch_size : int or "auto", default="auto"
        Rows of a minibatch. "auto" is a 32nd of the training rows, but at least 16 and at most 256.
    max_iter : int, default=200
        Epochs at most.
    early_stopping : bool, default=True
        Whether to hold out rows, stop when their bound does not rise, and keep the best state. The
        bound uses the right ln Z, whatever ``partition`` trains on.
    validation_fraction : float, default=0.1
        Part of the rows that is held out.
    n_iter_no_change : int, default=20
        Epochs without a rise of more than ``tol`` after which training stops, or is slowed down
        once more.
    tol : float, default=1e-4
        In nats.
    n_rate_drops : int, default=1
        How often early stopping, instead of stopping, goes on from the best state with a fifth of
        the learning rate.
    averaging : float, default=0.997
        Decay, for each step, of the moving average of the weights that is validated and kept; 0
        keeps the last weights.
    precision : {"float32", "bfloat16"}, default="float32"
        Of the matrix products of encoder and decoder in training. "bfloat16" is faster, for wide
        networks, where the processor has such products, but rounds what is decoded to 8 bits:
        enough for binary images, not for columns that are known to many digits. Energies,
        densities and ln Z, validation, scores and samples never use it.
    cuda_graph : bool, default=False
        Whether a step of `fit` on a GPU is recorded once as a CUDA graph and from then on, after
        ``kl_warmup``, launched as a whole: steps of small networks take longer to launch than to
        compute. Draws and result are the same, except for couplings of the prior so strong that its
        tables underflow: the recorded step cannot look, and the run ends as diverged. Of no account
        on a CPU, for `partial_fit` and for minibatches that are not full. A step that cannot be
        recorded (persistent chains of ``sampler="exact"``, networks that read values) is made as
        without it, with a warning.
    n_score_draws : int, default=1000
        Importance draws for each row in `score_samples`. More draws err less low.
    score_tol : float in [0, 1), default=0.0
        Standard error of a row's score, in nats, that is small enough. A pilot run with a sixteenth
        of the draws tells how many a row needs: a sixteenth, a quarter, or all. Fewer draws err
        lower, by about half the square of their error. It pays where most rows are within reach of
        it; where none is, it costs the pilot run. 0 gives all draws to every row.
    warm_start : bool, default=False
        Whether `fit` goes on from the fitted state, with the same network and standardisation
        (parameters of the architecture that were changed since have no effect), for another
        ``max_iter`` epochs, warm-up included.
    checkpoint_dir : str or path, default=None
        Directory where `fit` keeps the state of its training, in a file named by a hash of
        parameters and X. The same fit, called again after it was cut off, goes on from there to
        the same result (and returns at once if it was over, also for another ``ex_post``); the
        fits of a search can share a directory (not work that is done at the same time). Files stay
        until they are deleted. Pickles: only from sources you trust.
    device : str or torch.device, default="auto"
        "auto" is the first CUDA device if there is one, else the CPU, decided at each call.
    random_state : int, RandomState instance or None, default=None
        Of initial weights, held-out rows, minibatches, draws and scores; an integer makes all
        calls reproducible. The global generators of NumPy and torch are never touched.
    verbose : int, default=0
        1 prints a line an epoch. For a progress bar:
        ``set_callbacks(sklearn.callback.ProgressBar())``.

    Attributes
    ----------
    prior_ : estimator
        The fitted prior, with `sample`, `score_samples`, `log_partition_interval_`; a
        `GaussianBernoulliRBMPrior` has ``components_``, ``scale_`` and so on as well.
    ex_post_ : estimator or None
        The fitted clone of ``ex_post``, if there is one: the law of the latents then.
    module_ : torch.nn.Module
        The trained network, a `skevae.modules.VAE` on the CPU, in standardised coordinates.
    history_ : dict of str to ndarray of shape (`n_iter_`,)
        One entry an epoch, in nats a row, of the training rows unless said otherwise:
        "objective" (the bound, with ln Z as ``partition`` has it, so that with "posterior" it is
        the flattering number), "reconstruction" E[ln p(x|z)], "energy" E[E(z)], "log_partition",
        and with early stopping "validation" (the held-out bound with the right ln Z; nan for
        passes of `partial_fit`). Densities of x are on the scale of X. Where the prior's ln Z has
        no exact value, short annealing runs stand for it, which err low (and in training may be
        as old as 1000 steps): "objective" and "validation" then **err high**. `score` does not.
    n_iter_ : int
        Epochs run.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    GaussianBernoulliRBMPrior : The default prior, also a density estimator by itself.
    sklearn.mixture.GaussianMixture : A shallow density estimator with the same calls.

    References
    ----------
    .. [1] "Variational Inference with Unnormalized Priors".
    .. [2] Kingma & Welling (2014). "Auto-encoding variational Bayes".
    .. [3] Burda, Grosse & Salakhutdinov (2016). "Importance weighted autoencoders".
    .. [4] Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling (2016). "Improved variational
       inference with inverse autoregressive flow".
    .. [5] Tucker, Lawson, Gu & Maddison (2019). "Doubly reparameterized gradient estimators for
       Monte Carlo objectives".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> X = load_iris().data
    >>> vae = EnergyVAE(n_components=4, max_iter=20, random_state=0).fit(X)
    >>> vae.score_samples(X).shape
    (150,)
    >>> vae.sample(5).shape
    (5, 4)
    >>> vae.transform(X).shape
    (150, 4)
    >>> result = vae.log_likelihood(X[:3])
    >>> sorted(result)
    ['effective_sample_size', 'log_likelihood', 'n_draws', 'pareto_k', 'standard_error']
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **TRAINING_CONSTRAINTS,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "network": [StrOptions(set(NETWORKS)), callable],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "weight_norm": ["boolean"],
        "prior": [StrOptions(set(PRIORS)), HasMethods(["make_density", "with_density"])],
        "posterior": [StrOptions(set(POSTERIORS))],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "min_scale": [Interval(Real, 0, None, closed="neither")],
        "objective": [StrOptions(set(OBJECTIVES))],
        "partition": [StrOptions({"auto", *PARTITIONS})],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "ex_post": [DensityEstimatorInstance(), None],
        "n_rate_drops": [Interval(Integral, 0, None, closed="left")],
        "precision": [StrOptions(set(PRECISIONS))],
        "cuda_graph": ["boolean"],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "n_score_draws": [Interval(Integral, 1, None, closed="left")],
        "score_tol": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        n_components=16,
        *,
        hidden_layer_sizes=(128, 128),
        network="mlp",
        activation="silu",
        weight_norm=False,
        prior="grbm",
        posterior="diagonal",
        likelihood="gaussian-mixture",
        min_scale=1e-2,
        objective="iwae",
        partition="auto",
        n_draws=8,
        ex_post=None,
        standardize=True,
        kl_warmup=0.05,
        learning_rate=3e-3,
        batch_size="auto",
        max_iter=200,
        early_stopping=True,
        validation_fraction=0.1,
        n_iter_no_change=20,
        tol=1e-4,
        n_rate_drops=1,
        averaging=0.997,
        precision="float32",
        cuda_graph=False,
        n_score_draws=1000,
        score_tol=0.0,
        warm_start=False,
        checkpoint_dir=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.network = network
        self.activation = activation
        self.weight_norm = weight_norm
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood
        self.min_scale = min_scale
        self.objective = objective
        self.partition = partition
        self.n_draws = n_draws
        self.ex_post = ex_post
        self.standardize = standardize
        self.kl_warmup = kl_warmup
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.n_rate_drops = n_rate_drops
        self.averaging = averaging
        self.precision = precision
        self.cuda_graph = cuda_graph
        self.n_score_draws = n_score_draws
        self.score_tol = score_tol
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.module_.density.n_latent

    # --- fitting ------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows; in [0, 1] for ``likelihood="bernoulli"``.
        y : Ignored
            For API consistency.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not a finite 2-D array of numbers with at least 2 rows, or is outside [0, 1]
            for ``likelihood="bernoulli"``; if a parameter is out of its range, the device is not
            present, ``partition="exact"`` is asked of too large a prior, or the user's ``network``
            replaces the memory of its parameters while it is trained.
        ImportError
            If ``posterior`` is a flow and zuko is not installed.

        Warns
        -----
        ConvergenceWarning
            If training diverged (the best state is kept), or ln Z of the prior is only known to an
            interval wider than 0.1 nats.
        """
        return self._fit(X, y, going_on=self.warm_start and hasattr(self, "module_"))

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y=None):
        """Make one pass over X, going on from the present state.

        The first call initialises the model, standardisation included, so its rows should be
        representative. No rows are held out, and there is no warm-up.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows at the first call.
        y : Ignored
            For API consistency.

        Returns
        -------
        self
        """
        return self._fit(X, y, going_on=hasattr(self, "module_"), one_pass=True)

    def _fit(self, X: Any, y: Any, *, going_on: bool, one_pass: bool = False) -> Self:
        given = X  # with its feature names, for scoring callbacks
        X = self._check_rows(X, reset=not going_on, min_samples=1 if going_on else 2)
        self._check_range(X)
        device = resolve_device(self.device)
        checkpoint = None if going_on or one_pass else self._open_checkpoint(X, device)
        seeds = self._seeds_of_fit(checkpoint, 8)
        ex_post = self._unfitted_ex_post(seeds[6])
        state = self._state if going_on else self._start(X, seeds[0])
        module = self.module_ if going_on else self._build(state.prior, X.shape[1], seeds[0])
        model = copy_to(module, device, torch.float32)
        rows = self._finite_rows(X, state.standardizer, device)
        rows_at_once, draws_at_once = self._chunk_sizes(model, rows[:1], len(rows), self.n_draws)
        rebinarize = not model.likelihood.is_continuous and not np.isin(X, (0, 1)).all()
        train, held_out = (rows, None) if one_pass else self._split(rows, seeds[1])
        if not going_on:
            model.density.attach(
                model.encoder,
                model.posterior,
                train,
                model.likelihood.is_continuous,
                make_generator(seeds[7], device),
            )

        generator = make_generator(seeds[2], device)
        record = graph_recorder(device, [generator]) if self.cuda_graph and not one_pass else None
        choices = [self.partition, getattr(state.prior, "partition", "auto")]
        kind = PARTITIONS[resolve_partition(choices, model.density)]
        partition = kind(model.density, generator)
        weights = ParameterVector(trainable(model))
        optimizer = make_optimizer(weights, self.learning_rate)
        if one_pass and going_on:
            TrainingState.resume(self, optimizer, partition)
        if checkpoint is not None:
            checkpoint.attach(generator, partition)
        loss = TrainingLoss(
            model,
            partition,
            OBJECTIVES[self.objective],
            n_draws=self.n_draws,
            kl_warmup=0.0 if one_pass else self.kl_warmup,
            rebinarize=rebinarize,
            generator=generator,
            precision=PRECISIONS[self.precision],
        )

        def validate(rows: Tensor) -> float:
            model.eval()
            log_partition = model.density.quick_log_partition(make_generator(seeds[3], device))
            partition.note(log_partition)
            bound = held_out_bound(
                model,
                rows,
                n_draws=self.n_draws,
                rows_at_once=rows_at_once,
                draws_at_once=draws_at_once,
                rebinarize=rebinarize,
                seed=seeds[3],
                log_partition=log_partition,
            )
            model.train()
            return bound

        max_epochs = 1 if one_pass else self.max_iter
        callbacks = EpochCallbacks(
            self, given, y, max_epochs, lambda: self._attributes(model, state)
        )
        model.train()
        with seeded_globals(seeds[5], device):
            run = self._run(
                loss,
                weights,
                train,
                optimizer=optimizer,
                seed=seeds[4],
                max_epochs=max_epochs,
                batch_size=self._resolve_batch_size(len(train)),
                validate=None if held_out is None else partial(validate, held_out),
                grace=loss.kl_warmup,
                log_jacobian=state.standardizer.log_jacobian,
                on_epoch_begin=partition.refresh,
                callbacks=callbacks,
                checkpoint=checkpoint,
                max_drops=self.n_rate_drops,
                record=record,
            )
        model.eval()
        model.density.set_base(*aggregated_moments(model, rows, rows_at_once))
        if ex_post is not None:
            ex_post_generator = make_generator(seeds[6], device)
            draws = aggregated_draws(
                model,
                rows,
                math.ceil(EX_POST_DRAWS / len(rows)),
                rows_at_once=rows_at_once,
                rebinarize=rebinarize,
                generator=ex_post_generator,
            )
            ex_post = fit_density(ex_post, draws, ex_post_generator)
        self.history_ = self._extended_history(run, keep=going_on)
        self.n_iter_ = len(self.history_.get("objective", ()))
        self._training_state = TrainingState(optimizer, partition) if one_pass else None
        self._set_fitted(self._attributes(model, state, ex_post))
        if not one_pass and ex_post is None:
            # Now, so that its cost and its warning belong to fit.
            self.prior_.log_partition_interval_  # noqa: B018
        callbacks.finish()
        return self

    def _start(self, X: np.ndarray, seed: int) -> _State:
        """What a fit decides once: standardisation, prior estimator, and seeds of later calls."""
        prior_seed, partition_seed, score_seed = spawn(seed, 3)
        prior = PRIORS[self.prior]() if isinstance(self.prior, str) else self.prior
        prior = self._following(prior, prior_seed)
        enabled = self.standardize and LIKELIHOODS[self.likelihood].is_continuous
        return _State(Standardizer(X, enabled), prior, partition_seed, score_seed)

    def _following(self, estimator: Any, seed: int) -> Any:
        """Clone an estimator; where it leaves device and seed open, the clone has this model's."""
        estimator = clone(estimator)
        if hasattr(estimator, "_parameter_constraints"):
            estimator._validate_params()
        left_open = {"device": ("auto", self.device), "random_state": (None, seed)}
        for name, present in estimator.get_params().items():
            kind = name.rpartition("__")[-1]
            if kind in left_open and present == left_open[kind][0]:
                estimator.set_params(**{name: left_open[kind][1]})
        return estimator

    def _unfitted_ex_post(self, seed: int) -> Any:
        """Return a clone of ``ex_post``, checked before the training that comes first; or None."""
        if self.ex_post is None:
            return None
        check_can_sample(self.ex_post)
        return self._following(self.ex_post, seed)

    def _build(self, prior: Any, n_features: int, seed: int) -> VAE:
        """Untrained module."""
        construction, density = spawn(seed, 5)[3:]
        likelihood = LIKELIHOODS[self.likelihood](n_features, self.min_scale)
        posterior = POSTERIORS[self.posterior]
        sizes = layer_sizes(self.hidden_layer_sizes)
        n_codes = posterior.outputs_per_latent * self.n_components
        n_outputs = likelihood.outputs_per_feature * n_features
        build = network_builder(self.network, self.activation, self.weight_norm)
        with seeded_globals(construction):
            module = VAE(
                encoder=self._checked(build(n_features, n_codes, sizes), n_features, n_codes),
                decoder=self._checked(
                    build(self.n_components, n_outputs, sizes[::-1]), self.n_components, n_outputs
                ),
                posterior=posterior(self.n_components),
                likelihood=likelihood,
                density=prior.make_density(self.n_components, make_generator(density)),
            )
        return module

    def _checked(self, network: Any, n_inputs: int, n_outputs: int) -> nn.Module:
        """Raise if what the user's callable built is no network of the right shape."""
        wanted = f"map (n, {n_inputs}) to (n, {n_outputs})"
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"network={self.network!r} must return a torch.nn.Module to {wanted}, got "
                f"{network!r}."
            )
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(2, n_inputs)).shape)
        if shape != (2, n_outputs):
            raise ValueError(
                f"network={self.network!r} must return a module to {wanted}, but it returned one "
                f"that maps (2, {n_inputs}) to {shape}."
            )
        return network

    def _check_range(self, X: np.ndarray) -> None:
        """Raise if X cannot be what the likelihood describes."""
        if LIKELIHOODS[self.likelihood].is_continuous:
            return
        low, high = X.min(), X.max()
        if low < 0 or high > 1:
            raise ValueError(
                f"likelihood={self.likelihood!r} needs X in [0, 1], got values from {low:g} to "
                f"{high:g}. Scale X (MinMaxScaler(clip=True), say) or use likelihood='gaussian'."
            )

    def _attributes(self, model: VAE, state: _State, ex_post: Any = None) -> dict[str, Any]:
        """Fitted attributes, which are set together once training is over.

        While it lasts the prior is the law of the latents, of copies for scoring callbacks as well.
        """
        module = kept(model)
        prior = state.prior.with_density(module.density, state.partition_seed)
        return {"module_": module, "prior_": prior, "ex_post_": ex_post, "_state": state}

    # --- calls on the fitted model ----------------------------------------------------------------

    @staticmethod
    def _chunk_sizes(model: VAE, row: Tensor, n_rows: int, n_draws: int) -> tuple[int, int]:
        """Rows and draws at once that keep an evaluation within the memory granted."""
        with torch.no_grad():
            latent = row.new_zeros((1, model.density.n_latent))
            widths = [
                widest_output(model.encoder, row),
                widest_output(model.decoder, latent),
                model.posterior.width,
            ]
        return chunk_sizes(n_rows, n_draws, max(widths), row.element_size(), memory_budget())

    def _loaded(self, dtype: np.dtype) -> tuple[VAE, torch.device]:
        """Copy of the module for a call, in the precision of the data, with the latents' law."""
        device = resolve_device(self.device)
        model = copy_to(self.module_, device, TORCH_DTYPES[dtype])
        model.density = self._latent_density(device, TORCH_DTYPES[dtype])
        return model, device

    def _latent_density(self, device: torch.device | str, dtype: torch.dtype) -> Density:
        """Law of the latents: what was fitted ex post, else a copy of the prior's density."""
        if self.ex_post_ is None:
            return copy_to(self.module_.density, device, dtype)
        return EstimatorDensity(self.ex_post_, self.module_.density.n_latent)

    @property
    def _log_partition(self) -> float:
        """Ln Z of the law of the latents; the upper end of its interval where it is not exact."""
        return self.prior_.log_partition_interval_.high if self.ex_post_ is None else 0.0

    @property
    def _samples_exactly(self) -> bool:
        """Whether `sample` draws from the very law of which `score_samples` is an estimate."""
        return self._latent_density("cpu", torch.float32).samples_exactly

    def score_samples(self, X):
        """Log-likelihood of each row.

        Importance-sampled with ``n_score_draws`` draws from the row's posterior (a tenth of them
        from the law of the latents, where that can be sampled exactly: it bounds the weights), or
        as many as ``score_tol`` asks for, normalised by the prior's exact ln Z or the upper end of
        its interval: it errs low. The law of the latents is the prior, or ``ex_post_`` if there is
        one. All rows share one block of noise fixed at `fit` (scrambled Sobol points), so a row's
        score is deterministic and does not depend on the rows beside it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            With ``likelihood="bernoulli"``, values strictly between 0 and 1 are probabilities; the
            row scored is a binary one, drawn from them by a fixed function of the row.

        Returns
        -------
        ndarray of shape (n_samples,)
            ln p(x) in nats, on the scale of X (for "bernoulli", a log-probability).
        """
        return self._score_chunks(X, "importance")["log_likelihood"]

    def log_likelihood(self, X, *, method="importance", n_draws=None, tol=None, random_state=None):
        """Log-likelihood of each row, with the diagnostics of its estimate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        method : {"importance", "self_normalized"}, default="importance"
            "importance" is what `score_samples` returns; it errs low. "self_normalized" is eq. 5 of
            "Variational Inference with Unnormalized Priors", which replaces ln Z by what the
            row's own draws see of it. **It flatters**: as a rule it errs high, far so for a prior
            trained with ``partition="posterior"``, and with one draw it is the reconstruction
            term alone. It is here so that the paper's numbers can be reproduced.
        n_draws : int, default=None
            None uses ``n_score_draws``.
        tol : float, default=None
            In nats. None uses ``score_tol``. Of no account to "self_normalized", whose value
            depends on the number of draws.
        random_state : int, RandomState instance or None, default=None
            None uses the noise that was fixed at `fit`.

        Returns
        -------
        Bunch of ndarrays of shape (n_samples,)
            log_likelihood
                In nats, on the scale of X.
            standard_error
                Of ``log_likelihood``, by the delta method, in nats; infinite for one draw. It is
                that of independent draws, which those in use (scrambled Sobol points) mostly
                improve on, and speaks of the importance sampling alone, not of ln Z. Rows share
                their noise, so errors of different rows are correlated.
            effective_sample_size
                Between 1 and ``n_draws``.
            pareto_k
                Tail shape of the weights. Above 0.7 neither estimate nor error can be relied on;
                minus infinity where the weights are equal, nan below 25 draws.
            n_draws
                That the row was given.
        """
        validate_parameter_constraints(
            {
                "method": [StrOptions(set(METHODS))],
                "n_draws": [Interval(Integral, 1, None, closed="left"), None],
                "tol": [*self._parameter_constraints["score_tol"], None],
            },
            {"method": method, "n_draws": n_draws, "tol": tol},
            caller_name=f"{type(self).__name__}.log_likelihood",
        )
        return Bunch(**self._score_chunks(X, method, DIAGNOSTICS, n_draws, tol, random_state))

    def _score_chunks(
        self,
        X: Any,
        method: str,
        diagnostics: Iterable[str] = (),
        n_draws: int | None = None,
        tol: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> dict[str, np.ndarray]:
        check_is_fitted(self, "module_")
        X = self._check_rows(X)
        self._check_range(X)
        # They may have been set since fit.
        validate_parameter_constraints(
            {name: self._parameter_constraints[name] for name in ("n_score_draws", "score_tol")},
            {"n_score_draws": self.n_score_draws, "score_tol": self.score_tol},
            caller_name=type(self).__name__,
        )
        n_draws = self.n_score_draws if n_draws is None else n_draws
        tol = self.score_tol if tol is None else tol
        model, device = self._loaded(X.dtype)
        dtype = TORCH_DTYPES[X.dtype]
        seed = self._state.score_seed if random_state is None else self._seed_for(random_state)
        row = self._state.standardizer.tensor(X[:1], device, dtype)
        at_once, draws_at_once = self._chunk_sizes(model, row, len(X), n_draws)
        n_pilot = int(PILOT * n_draws)
        staged = tol > 0 and method in PROPOSAL_FREE_METHODS
        staged = staged and n_pilot >= MIN_PILOT_DRAWS
        stages = [int(part * n_draws) for part in STAGES] if staged else [n_draws]
        proposals = self._proposals(model, method, stages, seed, row)
        if staged:
            # Of draws that have no part in the score.
            pilot = self._proposals(model, method, [n_pilot], spawn(seed, 1)[0], row)[n_pilot]

        def log_weights(
            x: Tensor, proposal: tuple[Tensor, Defence | None]
        ) -> tuple[Tensor, Tensor]:
            noise, defence = proposal
            return weigh(model, x, noise, draws_at_once, defence)

        def evaluate(x: Tensor, n: int) -> dict[str, Tensor]:
            pair = log_weights(x, proposals[n])
            return {
                "log_likelihood": METHODS[method](*pair, self._log_partition),
                **{name: DIAGNOSTICS[name](torch.add(*pair)) for name in diagnostics},
            }

        parts: list[dict[str, Tensor]] = []
        for rows in row_slices(len(X), at_once):
            x = self._state.standardizer.tensor(X[rows], device, dtype)
            if not model.likelihood.is_continuous:
                x = binarize(x, make_generator(self._state.score_seed))
            n_given = torch.full((len(x),), n_draws, device=device)
            if staged:
                error = DIAGNOSTICS["standard_error"](torch.add(*log_weights(x, pilot)))
                n_given = draws_needed(error, n_pilot, stages, tol)
            values = by_number_of_draws(evaluate, x, n_given)
            values["n_draws"] = n_given
            parts.append({name: value.cpu() for name, value in values.items()})
        scores = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        scores["log_likelihood"] = scores["log_likelihood"] + X.dtype.type(
            self._state.standardizer.log_jacobian
        )
        return scores

    def _proposals(
        self, model: VAE, method: str, stages: Sequence[int], seed: int, like: Tensor
    ) -> dict[int, tuple[Tensor, Defence | None]]:
        """Noise of the posterior's draws, and draws of the latents' own law, for each number."""
        share = 0.0
        if method in PROPOSAL_FREE_METHODS and model.density.samples_exactly:
            share = DEFENSIVE_SHARE
        n_defence = {n: int(share * n) for n in stages}
        most, n_defending = max(stages), max(n_defence.values())
        # On the CPU whatever the device, so that a score does not depend on where it is made.
        noise = quasi_normal(most - n_defending, model.density.n_latent, seed)[:, None].to(like)
        if n_defending:
            density = self._latent_density("cpu", torch.float64)
            z = density.sample(n_defending, make_generator(seed)).to(like)
        return {
            n: (
                noise[: n - m],
                make_defence(model, z[:m], self._log_partition) if m else None,
            )
            for n, m in n_defence.items()
        }

    def transform(self, X):
        """Mean of the posterior of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            E[z | x], in the dtype of X; for flows, an average over fixed points of noise.
        """
        return self._encode(X)

    def _encode(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "module_")
        X = self._check_rows(X)
        self._check_range(X)
        model, device = self._loaded(X.dtype)
        row = self._state.standardizer.tensor(X[:1], device, TORCH_DTYPES[X.dtype])
        at_once, _ = self._chunk_sizes(model, row, len(X), 1)
        parts = []
        with torch.no_grad():
            for rows in row_slices(len(X), at_once):
                x = self._state.standardizer.tensor(X[rows], device, row.dtype)
                parts.append(model.posterior.mean(model.encoder(x)).cpu())
        return torch.cat(parts).numpy()

    def inverse_transform(self, Z):
        """Mean of the rows that latents decode to.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            E[x | z], on the scale of X, in the dtype of Z.
        """
        check_is_fitted(self, "module_")
        Z = self._check_latent(Z, self.module_.density.n_latent, "Z")
        return self._decode(Z, lambda model, outputs: model.likelihood.mean(outputs))

    def reconstruct(self, X):
        """Decode the posterior mean of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            ``inverse_transform(transform(X))``.
        """
        return self.inverse_transform(self._encode(X))

    def interpolate(self, x0, x1, n_steps=10, n_correction_steps=0, random_state=None):
        """Walk from one row to another through the latents, around what is improbable.

        The path is straight between the two posterior means. With ``n_correction_steps``, those of
        its points that are less probable than both ends, under the trained prior, are moved uphill
        by its sampler: each step goes to the mean of 64 transitions from the point (for the Gibbs
        sampler of an RBM, mean shift) if that raises the prior's density, until the point is as
        probable as the less probable end. It is the prior that corrects even if there is an
        ``ex_post_``, which has no Markov chain.

        Parameters
        ----------
        x0, x1 : array-like of shape (n_features,) or (1, n_features)
            The first row and the last.
        n_steps : int, default=10
            Points of the path, ends included; at least 2.
        n_correction_steps : int, default=0
            Steps of correction at most, for each point; the ends stay.
        random_state : int, RandomState instance or None, default=None
            Of the corrections. None uses the estimator's own.

        Returns
        -------
        Bunch
            In float32 if both rows are, else in float64.

            latent : ndarray of shape (n_steps, n_components)
                The path.
            rows : ndarray of shape (n_steps, n_features)
                What `inverse_transform` makes of it: the decoder's means, on the scale of X.
            log_density : ndarray of shape (n_steps,)
                Of ``latent``, in nats, under the law of the latents: ``ex_post_`` if there is one,
                else the prior.
            corrected : ndarray of bool of shape (n_steps,)
                Which points were moved.

        Raises
        ------
        ValueError
            If x0 or x1 is not one finite row with the features of X (for "bernoulli", in [0, 1]),
            or a number of steps is too small.
        """
        check_is_fitted(self, "module_")
        at_least = partial(Interval, Integral, right=None, closed="left")
        validate_parameter_constraints(
            {"n_steps": [at_least(2)], "n_correction_steps": [at_least(0)]},
            {"n_steps": n_steps, "n_correction_steps": n_correction_steps},
            caller_name=f"{type(self).__name__}.interpolate",
        )
        seed = self._seed_for(random_state)
        ends = np.concatenate(
            [self._encode(self._one_row(x, name)) for x, name in ((x0, "x0"), (x1, "x1"))]
        )
        model, device = self._loaded(ends.dtype)
        start, end = as_tensor(ends, device, TORCH_DTYPES[ends.dtype])
        path = straight_path(start, end, n_steps)
        prior = copy_to(self.module_.density, device, path.dtype)
        generator = make_generator(seed, device)
        path, moved = raise_low_points(prior, path, n_correction_steps, generator)
        with torch.no_grad():
            log_density = -model.density.energy(path) - self._log_partition
        latent = path.cpu().numpy()
        return Bunch(
            latent=latent,
            rows=self.inverse_transform(latent),
            log_density=log_density.cpu().numpy(),
            corrected=moved.cpu().numpy(),
        )

    def _one_row(self, x: Any, name: str) -> Any:
        """Turn a row, with its feature names if it has any, into a table of one."""
        if np.ndim(x) == 1:
            x = x.to_frame().T if hasattr(x, "to_frame") else np.asarray(x)[None]
        rows = check_array(x, dtype=[np.float64, np.float32], input_name=name, estimator=self)
        if len(rows) != 1:
            raise ValueError(f"{name} must be one row, but it has {len(rows)} of them.")
        return x

    def sample(self, n_samples=1, random_state=None):
        """Draw rows from the model: z from its law, x from the decoder's distribution.

        The law of the latents is the prior, or ``ex_post_`` if there is one.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None uses the estimator's own ``random_state``, so that an estimator with an integer
            seed returns the same rows each time.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float64, on the scale of X; zeros and ones for ``likelihood="bernoulli"``. For the
            decoder's means instead of draws, decode ``prior_.sample`` by `inverse_transform`.
        """
        check_is_fitted(self, "module_")
        n_samples = self._check_n_samples(n_samples)
        device = resolve_device(self.device)
        generator = make_generator(self._seed_for(random_state), device)
        density = self._latent_density(device, torch.float64)
        Z = density.sample(n_samples, generator).cpu().numpy()
        return self._decode(Z, lambda model, outputs: model.likelihood.sample(outputs, generator))

    def _decode(self, Z: np.ndarray, read: Callable[[VAE, Tensor], Tensor]) -> np.ndarray:
        """Decode latents in bounded memory, ``read`` the outputs, and undo the standardisation."""
        model, device = self._loaded(Z.dtype)
        example = torch.zeros((1, self.n_features_in_), dtype=TORCH_DTYPES[Z.dtype], device=device)
        at_once, _ = self._chunk_sizes(model, example, len(Z), 1)
        parts = []
        with torch.no_grad():
            for rows in row_slices(len(Z), at_once):
                outputs = model.decoder(as_tensor(Z[rows], device, example.dtype))
                parts.append(self._state.standardizer.rows(read(model, outputs)))
        return np.concatenate(parts)
