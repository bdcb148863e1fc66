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

    Rows x are explained by latents z with an unnormalised prior,

    .. math::
        p(x) = \int p(x \mid z) \, \frac{e^{-E(z)}}{Z} \, dz,

    trained through an encoder's posterior q(z | x) (Kingma & Welling 2014). By default the prior is
    a Gaussian-Bernoulli RBM, a mixture of 2^H Gaussians whose ln Z is exact; the system is that of
    "Variational Inference with Unnormalized Priors", and its estimators are here under their names.

    `score` never flatters: log-likelihoods are importance-sampled, normalised, in nats, on the
    scale of X, and lower bounds in expectation.

    Parameters
    ----------
    n_components : int, default=16
        Number of latents D.
    hidden_layer_sizes : int or array-like of int, default=(128, 128)
        Widths of the encoder's hidden layers; the decoder mirrors them.
    network : {"mlp", "densenet", "resnet"} or callable, default="mlp"
        "densenet": every layer sees the input and all earlier layers (the paper's toy network).
        "resnet": every layer adds to its input. A network object has parameters of its own, such
        as ``MLP(activation="relu", weight_norm=True)`` of `skevae.networks`, which grid-search as
        ``network__activation``. A callable ``(n_inputs, n_outputs, hidden_layer_sizes) ->
        torch.nn.Module`` builds a network of yours. Checkpoints in it (`torch.utils.checkpoint`)
        have to be non-reentrant, and its forward must not assign to the ``.data`` of a parameter.
        If it has layers that draw at random, such as dropout, fits in several threads take turns.
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
    likelihood : str or likelihood object, default="gaussian-mixture"
        With "gaussian-mixture" the decoder predicts a mixture of two normals for each feature
        from the latents, which suits columns that are nearly discrete, bounded or heavy-tailed;
        with "gaussian-rowwise" one normal, mean and scale; with "gaussian" its mean, and one scale
        for each feature is learned. "bernoulli" is for X in [0, 1]: values strictly between are
        probabilities, and every visit in training draws a fresh binary row (dynamic binarisation).
        An object of `skevae.likelihoods` has parameters of its own, such as
        ``GaussianMixtureLikelihood(min_scale=0.05)``, which grid-search as
        ``likelihood__min_scale``. That bound of the scales bounds the density of discrete columns.
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns are categories: a mask, indices, or names of columns of a DataFrame.
        "from_dtype" takes the columns of a DataFrame that hold strings, booleans or categories, and
        none of an array. The decoder gives each category a probability (a softmax); the score
        counts its logarithm.
    integer_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns are integers, likewise. "from_dtype" takes the columns of a DataFrame with an
        integer dtype, and columns of floats that are integers with missing entries, as which
        pandas reads them. The score counts the probability of the unit interval around the value
        under a mixture of three normals, so nearly discrete columns have no unbounded density.
        With ``likelihood="bernoulli"``, such columns are Bernoulli features.
    handle_unknown : {"error", "missing"}, default="error"
        What is done with a category that was not in the rows of `fit`.
    bounds : dict of column to (low, high), default=None
        Open intervals that continuous columns lie in, by name or index; None or infinity leaves a
        side open. Such a column is mapped to the real line by a logarithm or a logit, with the
        exact Jacobian in the score, so that no density is spent, and no row drawn, outside.
    mask_rate : float in [0, 1), default=0.0
        Part of the entries hidden at random at each visit in training. It trains the encoder for
        rows with more missing entries than X has. Scores of rows with missing entries are right in
        any case, but need more draws where the encoder has not seen any.
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
        and for an `EnergyVAE` with many ``n_score_draws`` of its own. The score is
        a lower bound in expectation if what it scores is at most the density of what it samples.
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
    max_time : float, default=None
        Seconds of training after which `fit` stops, as at ``max_iter``: the best state is kept. It
        stops at the next step, and the epoch counts with the rows it saw; with ``checkpoint_dir``
        at the end of the epoch, and the same fit, called again, goes on for as long. Time limits
        make results depend on the machine. `partial_fit` always makes its whole pass.
    early_stopping : bool, default=True
        Whether to hold out rows, stop when their bound does not rise, and keep the best state. The
        bound uses the right ln Z, whatever ``partition`` trains on.
    validation_fraction : float, default=0.1
        Part of the rows that is held out.
    n_iter_no_change : int, default=20
        Epochs without a rise of more than ``tol`` after which training goes on once from the best
        state with a fifth of the learning rate, and then stops.
    tol : float, default=1e-4
        In nats.
    precision : {"float32", "bfloat16"}, default="float32"
        Of the matrix products of encoder and decoder in training. "bfloat16" is faster, for wide
        networks, where the processor has such products, but rounds what is decoded to 8 bits:
        enough for binary images, not for columns that are known to many digits. Energies,
        densities and ln Z, validation, scores and samples never use it.
    cuda_graph : bool, default=False
        Whether a step of `fit` on a GPU is recorded once as a CUDA graph and from then on, after
        ``kl_warmup``, launched as a whole: steps of small networks take longer to launch than to
        compute. Draws and result are the same, unless the couplings of the prior are so strong that
        its tables underflow: a recorded step cannot check that, and the run ends as diverged.
        Ignored on a CPU, by `partial_fit`, and for minibatches that are not full. A step that
        cannot be recorded (persistent chains of ``sampler="exact"``, networks that read values)
        is made without it, with a warning.
    n_score_draws : int, default=500
        Importance draws for each row in `score_samples`. More draws reduce the downward bias.
    warm_start : bool, default=False
        Whether `fit` goes on from the fitted state, for another ``max_iter`` epochs, warm-up
        included. What was fitted keeps its network, posterior, likelihood, prior and
        standardisation: a change of these parameters has no effect. Of the same rows the same ones
        are held out.
    checkpoint_dir : str or path, default=None
        Directory where `fit` keeps the state of its training, in a file named by a hash of
        parameters and X. The same fit, called again after it was cut off, goes on from there to
        the same result (and returns at once if it was over, also for another ``ex_post`` or with
        ``random_state=None``, whose seed is in the file); the fits of a search can share a
        directory. Of your own functions the source is hashed, but not what they call. Files stay
        until they are deleted. They hold no pickles.
    device : str or torch.device, default="auto"
        "auto" is the first CUDA device if there is one, else the CPU, decided at each call.
    random_state : int, RandomState instance or None, default=None
        Of initial weights, held-out rows, minibatches, draws and scores; an integer makes all
        calls reproducible. Each pass of `partial_fit` and each warm start has its own random
        numbers, derived from it. The global generators of NumPy and torch are not touched, except
        while a network of yours draws from torch's; its state is then put back.
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
        The trained network, a `skevae.vae.VAE` on the CPU, in standardised coordinates.
    history_ : dict of str to ndarray of shape (`n_iter_`,)
        One entry an epoch, in nats a row, of the training rows unless said otherwise:
        "objective" (the bound, with ln Z as ``partition`` has it, so that with "posterior" it is
        the flattering number), "reconstruction" E[ln p(x|z)], "energy" E[E(z)], "log_partition",
        and with early stopping "validation" (the held-out bound with the right ln Z; nan for
        passes of `partial_fit`). Densities of x are on the scale of X. Where the prior's ln Z has
        no exact value, short annealing runs stand for it, whose values are usually too low (and in
        training may be as old as 1000 steps): "objective" and "validation" are then usually **too
        high**. `score` is not.
    n_iter_ : int
        Epochs run.
    best_n_iter_ : int
        The epoch, counted from 1, whose state was kept: that of the best held-out bound, or
        ``n_iter_`` without early stopping. 0 if training diverged and the state at its start was.
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
        # Copies of the module on devices, made anew where they are needed.
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
            At least 2 rows; in [0, 1] for ``likelihood="bernoulli"``. Also a
            `torch.utils.data.Dataset`, a ``DataLoader`` or an iterator over batches of numbers,
            which are written to a temporary file first.
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the bound, not negative. A weight of 2 counts a row twice, and a
            weight of 0 leaves it out. None weights all rows alike.

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
        OSError
            If ``checkpoint_dir`` cannot be written.
        KeyboardInterrupt
            If training is interrupted, once the best state has been kept: the estimator is fitted.

        Warns
        -----
        ConvergenceWarning
            If training diverged (the best state is kept), ``max_time`` was over before
            ``kl_warmup`` was, or ln Z of the prior is only known to an interval wider than 0.1
            nats.
        UserWarning
            If ``prior`` is an estimator with training parameters of its own, which are ignored.
        """
        VAEFit(self, X, y, sample_weight, Mode.of(self, one_pass=False)).run()
        return self

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over X, going on from the present state.

        The first call initialises the model, standardisation included, so its rows should be
        representative. No rows are held out, and there is no warm-up.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows at the first call.
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the bound, not negative. A weight of 2 counts a row twice, and a
            weight of 0 leaves it out. None weights all rows alike.

        Returns
        -------
        self
        """
        VAEFit(self, X, y, sample_weight, Mode.of(self, one_pass=True)).run()
        return self
