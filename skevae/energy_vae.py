"""EnergyVAE: the variational autoencoder with an energy-based prior, as an estimator."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from sklearn.base import _fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import Interval, StrOptions

from skevae.densities.ex_post import DensityEstimatorInstance
from skevae.estimators.base import TRAINING_CONSTRAINTS
from skevae.estimators.mode import Mode
from skevae.fitted import FittedVAE
from skevae.likelihoods import LIKELIHOODS
from skevae.networks import NETWORKS
from skevae.networks.precision import PRECISIONS
from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.training import OBJECTIVES
from skevae.utils.constraints import InstanceWith, KeyOf
from skevae.vae_fit import VAEFit


class EnergyVAE(CallbackSupportMixin, FittedVAE):
    r"""Variational autoencoder with an energy-based prior: a deep density estimator.

    The rows x are generated from latents z with an unnormalised prior,

    .. math::
        p(x) = \int p(x \mid z) \, \frac{e^{-E(z)}}{Z} \, dz,

    and trained with an encoder that predicts the posterior q(z | x) (Kingma & Welling 2014). The
    default prior is a Gaussian-Bernoulli RBM, a mixture of 2^H Gaussians with an exact ln Z. The
    model is that of "Variational Inference with Unnormalized Priors" [1]_. The estimators of that
    paper are available, but are not the defaults.

    `score` returns a normalised log-likelihood in nats, on the scale of X. It is estimated by
    importance sampling and is a lower bound in expectation.

    Parameters
    ----------
    n_components : int, default=16
        Number of latents D.
    hidden_layer_sizes : int or array-like of int, default=(128, 128)
        Widths of the encoder's hidden layers. The decoder has the same layers in reverse order.
    network : {"mlp", "densenet", "resnet"} or callable, default="mlp"
        "densenet": every layer receives the input and the outputs of all earlier layers (the
        paper's toy network). "resnet": layers have skip connections. A network object, such as
        ``MLP(activation="relu", weight_norm=True)`` from `skevae.networks`, has its own parameters,
        which can be searched as ``network__activation``. A callable
        ``(n_inputs, n_outputs, hidden_layer_sizes) -> torch.nn.Module`` builds a custom network. In
        it, `torch.utils.checkpoint` must be non-reentrant, and ``forward`` must not assign to the
        ``.data`` of a parameter. If it has random layers, such as dropout, fits in several threads
        run one after the other.
    prior : str or prior estimator, default="grbm"
        "grbm" is ``GaussianBernoulliRBMPrior()``, "normal" N(0, I), "mixture"
        ``GaussianMixturePrior()``, "vamp" ``VampPrior()``, "flow" ``FlowPrior()`` and "neural"
        ``NeuralPrior()``. An unfitted prior estimator has its own parameters, which can be searched
        as ``prior__n_components`` and so on.
    posterior : {"diagonal", "fixed", "iaf", "iaf-volume-preserving"}, default="diagonal"
        "diagonal": N(m(x), diag(s(x)^2)), the paper's EVAE. "fixed": N(m(x), I), the paper's
        ECVVAE. "iaf": m(x) + s(x) f(noise), where f is an inverse autoregressive flow conditioned
        on the row, for correlated and non-Gaussian posteriors (Kingma et al. 2016).
        "iaf-volume-preserving": the same, but f shifts without scaling. Both need zuko
        (``pip install "skevae[flows]"``). Their moments have no closed form: `transform` averages
        over 256 fixed points of noise. Their density at a given z takes one pass per latent, so
        ``partition="aggregate"`` is slow with them.
    likelihood : str or likelihood object, default="gaussian-mixture"
        "gaussian-mixture": the decoder predicts a mixture of two normals for each feature, which is
        suitable for columns that are nearly discrete, bounded or heavy-tailed. "gaussian-rowwise":
        it predicts the mean and scale of one normal. "gaussian": it predicts the mean, and one
        scale per feature is learned. "bernoulli" is for X in [0, 1]: values strictly between 0 and
        1 are probabilities, and a new binary row is drawn from them each time the row is used in
        training (dynamic binarisation). An object from `skevae.likelihoods`, such as
        ``GaussianMixtureLikelihood(min_scale=0.05)``, has its own parameters, which can be searched
        as ``likelihood__min_scale``. The lower bound ``min_scale`` limits the density of discrete
        columns.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Categorical columns: a mask, indices, or names of columns of a DataFrame. "from_dtype"
        selects the columns of a DataFrame with strings, booleans or categories, and no columns of
        an array. The decoder predicts the probability of each category (a softmax), and the score
        contains its logarithm.
    integer_features : "from_dtype", array-like or None, default="from_dtype"
        Integer columns, in the same format. "from_dtype" selects the columns of a DataFrame with an
        integer dtype, and float columns that contain only integers and missing values, since pandas
        reads integers with missing values as floats. The score contains the log-probability of
        the value, so the score of nearly discrete columns is bounded. It is the probability of the
        unit interval around the value under a mixture of three normals. Columns of at most 50
        values with gaps between them, and ten rows per value on average, have a probability for
        each value instead. With ``likelihood="bernoulli"``, integer columns are Bernoulli features.
    handle_unknown : {"error", "missing"}, default="error"
        Whether a category that was not seen in `fit` raises an error or is treated as missing.
    bounds : dict of column to (low, high), default=None
        Open intervals that contain the values of continuous columns, by name or index; None or
        infinity means no bound on that side. Bounded columns are mapped to the real line by a
        logarithm or a logit, and the score includes the exact Jacobian. The density outside of the
        bounds is zero, and no values are sampled there.
    mask_rate : float in [0, 1), default=0.0
        Fraction of the entries that are hidden at random in each training step. This trains the
        encoder for rows with more missing entries than X has. Scores of rows with missing entries
        are valid in any case, but need more draws if the encoder was not trained on such rows.
    objective : {"iwae", "iwae-dreg", "elbo"}, default="iwae"
        The importance-weighted bound (Burda et al. 2016), or the evidence lower bound. "iwae-dreg"
        is the importance-weighted bound with the doubly reparametrised gradient of the encoder
        (Tucker et al. 2019), which has the same mean and usually a smaller variance. It needs
        ``posterior="diagonal"`` or "fixed", and a ``partition`` other than "aggregate" and
        "posterior".
    partition : str, default="auto"
        How training computes ln Z or its gradient.

        - "exact": exact, by the matrix product of `GaussianBernoulliRBMPrior` or a closed form.
        - "persistent": its gradient from persistent Markov chains; for priors of any size.
        - "contrastive", "contrastive-from-noise": short chains, biased; see
          `GaussianBernoulliRBMPrior`.
        - "aggregate": importance sampling from the pooled posteriors of the minibatch; suited to
          few latents.
        - "posterior": estimated from the row's own draws, eq. 3 of the paper. **Not a bound**: the
          training objective can increase without limit while the true likelihood decreases. Only
          meant to reproduce the paper.
        - "auto": the ``partition`` of the prior estimator if it is set; otherwise "exact" for up to
          24 hidden units and for normalised priors, and "persistent" for all other priors.
    n_draws : int, default=8
        Number of latent draws for each row in a training step.
    ex_post : density estimator, default=None
        An unfitted scikit-learn density estimator with ``score_samples`` and ``sample``
        (`GaussianMixture`, `KernelDensity`, `GaussianBernoulliRBMPrior`, another `EnergyVAE`).
        After training, a clone is fitted to draws from the aggregated posterior of the rows given
        to `fit` or to the last call of `partial_fit` (one draw per row, more for fewer than 1000
        rows). It replaces the prior as the distribution of the latents in `score_samples`,
        `log_likelihood` and `sample`. Its parameters can be searched as ``ex_post__n_components``
        and so on. Scores call its ``score_samples`` for each of ``n_score_draws`` draws of each
        row, which is slow for a `KernelDensity` with many rows, and for an `EnergyVAE` with a large
        ``n_score_draws``. Scores are lower bounds in expectation if the density that the estimator
        scores is at most the density that it samples.
    standardize : bool, default=True
        Whether X is standardised internally (not with "bernoulli"). Scores are on the scale of X in
        any case.
    kl_warmup : float, default=0.05
        Fraction of ``max_iter`` during which the weight of the prior and posterior terms increases
        from 0 to 1. Without warm-up, a model with a learned prior often converges to a poor optimum
        that ignores its latents. Early stopping starts after the warm-up.
    learning_rate : float, default=3e-3
        Learning rate of Adam.
    batch_size : int or "auto", default="auto"
        Minibatch size. "auto" is 1/32 of the number of training rows, clipped to [16, 256].
    max_iter : int, default=200
        Maximum number of epochs.
    max_time : float, default=None
        Time limit for training in seconds. As with ``max_iter``, the best state is kept. `fit`
        stops at the next step, in the middle of an epoch. With ``checkpoint_dir`` it stops at the
        end of the epoch, and the same call continues for the same time. With a time limit, results
        depend on the machine. `partial_fit` ignores it.
    early_stopping : bool, default=True
        Whether to hold out rows, stop when their bound no longer improves, and keep the best state.
        This bound does not use the training estimate of ln Z chosen by ``partition``.
    validation_fraction : float, default=0.1
        Fraction of the rows that are held out.
    n_iter_no_change : int, default=20
        Number of epochs without an improvement of more than ``tol`` before training continues from
        the best state with a fifth of the learning rate; the second time, training stops.
    tol : float, default=1e-4
        Minimum improvement, in nats; see ``n_iter_no_change``.
    precision : {"float32", "bfloat16"}, default="float32"
        Precision of the matrix products of encoder and decoder in training. "bfloat16" is faster
        for wide networks if the processor supports it, but rounds the decoder's outputs to 8 bits.
        This is enough for binary images, but not for columns with many significant digits.
        Energies, densities, ln Z, validation, scores and samples never use it.
    cuda_graph : bool, default=False
        Whether a training step of `fit` on a GPU is recorded as a CUDA graph, which is then
        launched as a whole after ``kl_warmup``. This helps because small networks take longer to
        launch than to compute. Random draws and results are the same, with one exception: if the
        couplings of the prior are so strong that its tables underflow, a recorded step cannot
        detect it, and training stops as diverged. Ignored on a CPU, by `partial_fit`, and for
        incomplete minibatches. If a step cannot be recorded (persistent chains with
        ``sampler="exact"``, networks that read values), ordinary steps are used and a warning is
        issued.
    n_score_draws : int, default=500
        Number of importance draws for each row in `score_samples`. More draws reduce the downward
        bias.
    warm_start : bool, default=False
        Whether `fit` continues from the fitted state, for another ``max_iter`` epochs, including
        the warm-up. Network, posterior, likelihood, prior and standardisation stay those of the
        first fit, and so do the bounds and kinds of columns: changing these parameters has no
        effect. If X is the same, the same rows are held out.
    checkpoint_dir : str or path, default=None
        Directory in which `fit` saves its training state, in a file named by a hash of the
        parameters and X. If `fit` is interrupted, the same call resumes from there and gives the
        same result. If training was complete, it returns at once. This also holds with another
        ``ex_post``, and with ``random_state=None``, whose seed is saved in the file. Several fits
        can share a directory. For custom functions, the hash includes their source, but not the
        source of functions that they call. Files are not deleted, and contain no pickles.
    device : str or torch.device, default="auto"
        "auto" uses the first CUDA device if there is one, and the CPU otherwise. It is resolved at
        each call.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, held-out rows, minibatches, draws and scores. Pass an integer for
        reproducible results. Each pass of `partial_fit` and each warm start uses different random
        numbers derived from it. The global generators of NumPy and torch are not used, except while
        a custom network draws from torch's; its state is restored afterwards.
    verbose : int, default=0
        If 1, print one line per epoch. For a progress bar, use
        ``set_callbacks(sklearn.callback.ProgressBar())``.

    Attributes
    ----------
    prior_ : estimator
        The fitted prior, with `sample`, `score_samples` and `log_partition_interval_`; a
        `GaussianBernoulliRBMPrior` also has ``components_``, ``scale_`` and so on.
    ex_post_ : estimator or None
        The fitted clone of ``ex_post``, if given. It replaces the prior as the distribution of the
        latents.
    module_ : torch.nn.Module
        The trained network, a `skevae.vae.VAE` on the CPU, in standardised coordinates.
    history_ : dict of str to ndarray of shape (`n_iter_`,)
        One entry per epoch, in nats per row of the training rows: "objective" (the bound with ln Z
        according to ``partition``; with "posterior" it is too high), "reconstruction" E[ln p(x|z)],
        "energy" E[E(z)] and "log_partition". With early stopping, also "validation" (the bound of
        the held-out rows; nan for passes of `partial_fit`). Densities of x are on the scale of X.
        With ``mask_rate``, "objective" and "reconstruction" only cover the entries not hidden.
        If ln Z of the prior is not exact, it is estimated by short annealing runs (in training, at
        most 1000 steps ago). The estimates are usually too low, so "objective" and "validation" are
        usually **too high**. `score` is not affected.
    n_iter_ : int
        Number of epochs, including one that was cut short by ``max_time``. 0 if training diverged
        in the first one.
    best_n_iter_ : int
        The epoch, counted from 1, whose state was kept: the epoch with the best held-out bound, or
        ``n_iter_`` without early stopping. 0 if training diverged and the initial state was kept.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    GaussianBernoulliRBMPrior : The default prior, also a density estimator on its own.
    sklearn.mixture.GaussianMixture : A shallow density estimator with the same methods.

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
        "network": [KeyOf(NETWORKS), callable],
        "prior": [
            KeyOf(PRIORS),
            InstanceWith("a prior", ["make_density", "with_density"]),
        ],
        "posterior": [KeyOf(POSTERIORS)],
        "likelihood": [
            KeyOf(LIKELIHOODS),
            InstanceWith("a likelihood", ["make_likelihood"]),
        ],
        "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
        "integer_features": [StrOptions({"from_dtype"}), "array-like", None],
        "handle_unknown": [StrOptions({"error", "missing"})],
        "bounds": [dict, None],
        "mask_rate": [Interval(Real, 0, 1, closed="left")],
        "objective": [KeyOf(OBJECTIVES)],
        "partition": [KeyOf(PARTITIONS, "auto")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
        "ex_post": [DensityEstimatorInstance(), None],
        "precision": [KeyOf(PRECISIONS)],
        "cuda_graph": ["boolean"],
        "kl_warmup": [Interval(Real, 0, 1, closed="both")],
        "n_score_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components=16,
        *,
        hidden_layer_sizes=(128, 128),
        network="mlp",
        prior="grbm",
        posterior="diagonal",
        likelihood="gaussian-mixture",
        categorical_features="from_dtype",
        integer_features="from_dtype",
        handle_unknown="error",
        bounds=None,
        mask_rate=0.0,
        objective="iwae",
        partition="auto",
        n_draws=8,
        ex_post=None,
        standardize=True,
        kl_warmup=0.05,
        learning_rate=3e-3,
        batch_size="auto",
        max_iter=200,
        max_time=None,
        early_stopping=True,
        validation_fraction=0.1,
        n_iter_no_change=20,
        tol=1e-4,
        precision="float32",
        cuda_graph=False,
        n_score_draws=500,
        warm_start=False,
        checkpoint_dir=None,
        device="auto",
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.network = network
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood
        self.categorical_features = categorical_features
        self.integer_features = integer_features
        self.handle_unknown = handle_unknown
        self.bounds = bounds
        self.mask_rate = mask_rate
        self.objective = objective
        self.partition = partition
        self.n_draws = n_draws
        self.ex_post = ex_post
        self.standardize = standardize
        self.kl_warmup = kl_warmup
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.max_time = max_time
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.precision = precision
        self.cuda_graph = cuda_graph
        self.n_score_draws = n_score_draws
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    _module_name = "module_"

    def __getstate__(self):
        state = dict(super().__getstate__())
        # Copies of the module on devices, which are created again when they are needed.
        return {**state, "_cache": {}} if "_cache" in state else state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self.module_.density.n_latent

    # --- fitting ------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows; in [0, 1] for ``likelihood="bernoulli"``. Can also be a
            `torch.utils.data.Dataset`, a ``DataLoader`` or an iterator over numeric batches, which
            are first written to a temporary file.
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows in the bound. A weight of 2 counts a row twice, and a
            weight of 0 excludes it. If None, all rows have weight 1.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not a finite 2-D array of numbers with at least 2 rows, or is outside [0, 1] for
            ``likelihood="bernoulli"``; if a parameter is out of its range, the device is not
            available, the prior is too large for ``partition="exact"``, or a custom ``network``
            replaces the memory of its parameters during training.
        ImportError
            If ``posterior`` is a flow and zuko is not installed.
        OSError
            If ``checkpoint_dir`` cannot be written.
        KeyboardInterrupt
            If training is interrupted. The best state is kept first, so the estimator is fitted.

        Warns
        -----
        ConvergenceWarning
            If training diverged (the best state is kept), if ``max_time`` ended before
            ``kl_warmup``, or if the interval of ln Z of the prior is wider than 0.1 nats.
        UserWarning
            If ``prior`` is an estimator whose training parameters were changed: they are ignored.
        """
        VAEFit(self, X, y, sample_weight, Mode.of(self, one_pass=False)).run()
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over X, starting from the current state.

        The first call initialises the model and the standardisation, so its rows should be
        representative. No rows are held out, and there is no warm-up.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows in the first call.
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows in the bound. A weight of 2 counts a row twice, and a
            weight of 0 excludes it. If None, all rows have weight 1.

        Returns
        -------
        self

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> X = load_iris().data
        >>> vae = EnergyVAE(2, random_state=0)
        >>> for start in (0, 50, 100):
        ...     vae = vae.partial_fit(X[start : start + 50])
        >>> vae.n_iter_
        3
        """
        VAEFit(self, X, y, sample_weight, Mode.of(self, one_pass=True)).run()
        return self
