"""Base class of the priors that can also be fitted on their own."""

from __future__ import annotations

from sklearn.base import _fit_context
from sklearn.callback import CallbackSupportMixin

from skevae.estimators.mode import Mode
from skevae.priors.base import DensityPrior
from skevae.priors.fit import PriorFit


class TrainedDensityPrior(CallbackSupportMixin, DensityPrior):
    """Base of the priors that can also be fitted on their own, by maximum likelihood.

    It has the parameters that all of them share; a subclass adds its own, with their
    ``_parameter_constraints``. ``partition`` is "auto" unless the subclass has it as a parameter.
    """

    partition = "auto"

    def __init__(
        self,
        *,
        standardize,
        learning_rate,
        batch_size,
        max_iter,
        max_time,
        early_stopping,
        validation_fraction,
        n_iter_no_change,
        tol,
        warm_start,
        checkpoint_dir,
        device,
        random_state,
        verbose,
    ):
        self.standardize = standardize
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.max_time = max_time
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit by maximum likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows in the likelihood. A weight of 2 counts a row twice,
            and a weight of 0 excludes it. If None, all rows have weight 1.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not a finite 2-D array of numbers with at least 2 rows, a parameter is out of
            its range, or the density is too large for ``partition="exact"``.
        OSError
            If ``checkpoint_dir`` cannot be written.
        KeyboardInterrupt
            If training was interrupted, after the best state was kept in the estimator.

        Warns
        -----
        ConvergenceWarning
            If training diverged (the best state is kept), or the interval of ln Z is wider than 0.1
            nats.
        """
        PriorFit(self, X, y, sample_weight, Mode.of(self, one_pass=False)).run()
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Make one pass over X, starting from the current state.

        The first call initialises the model and the standardisation, so its rows should be
        representative. No rows are held out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            At least 2 rows in the first call.
        y : Ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the rows in the likelihood. A weight of 2 counts a row twice,
            and a weight of 0 excludes it. If None, all rows have weight 1.

        Returns
        -------
        self
        """
        PriorFit(self, X, y, sample_weight, Mode.of(self, one_pass=True)).run()
        return self
