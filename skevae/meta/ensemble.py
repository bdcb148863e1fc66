"""EnergyEnsemble: the average density of several fits."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from sklearn.base import DensityMixin, _fit_context, clone
from sklearn.utils import get_tags
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from sklearn.utils.parallel import Parallel
from sklearn.utils.validation import check_is_fitted

from skevae.densities.ex_post import DensityEstimatorInstance
from skevae.energy_vae import EnergyVAE
from skevae.estimators.frames import as_frame
from skevae.estimators.streams import from_stream
from skevae.meta.base import DensityMeta, check_takes_weights
from skevae.meta.kinds import common_columns, with_kinds_of
from skevae.meta.stacking import Stack, fit_members, mean_density
from skevae.utils.random import draw_seed, spawn
from skevae.utils.sampling import seeded_sample
from skevae.utils.weights import mean_score


class EnergyEnsemble(DensityMixin, DensityMeta):
    r"""Weighted average of the densities of several fits.

    .. math:: p(x) = \sum_{m=1}^M w_m p_m(x)

    The members have different initial weights, minibatches and, with early stopping, held-out rows.
    On a few hundred rows, fits differ by chance. The average reduces this variation: on any rows,
    its score is at least the weighted mean of the members' scores (Jensen's inequality). If the
    members estimate the density p(x) itself without bias, as importance sampling does, the score
    of the average is a lower bound in expectation, too.

    The members can be of several kinds. With ``stacking=True``, each kind is weighted by how well
    it predicts rows that it was not fitted to [1]_, and then fitted to all rows.

    Parameters
    ----------
    estimator : density estimator or list of density estimators, default=None
        Estimators with ``fit``, ``score_samples``, ``sample`` and a ``random_state``, which is set
        for each member. With ``stacking=True``, estimators without ``random_state`` can be used as
        well. None means ``EnergyVAE()``.
    n_estimators : int, default=5
        Number of members of each estimator. Fitting and scoring take as long as for all members
        one after the other.
    stacking : bool, default=False
        If False, all members have the same weight and are fitted to all rows. If True, the rows
        are split into ``n_estimators`` folds, and member k of each estimator is fitted to the rows
        outside of fold k. The weights of the estimators maximise the log-likelihood of the
        held-out rows. All members must know all categories: declare them by the ``category`` dtype
        of pandas or ``pl.Enum`` of polars. With ``handle_unknown="missing"``, unknown categories
        are scored as missing values, so the scores are too high.
    refit : bool, default=True
        Whether the members are fitted again, to all rows, after the weights are chosen [3]_. Used
        only with ``stacking=True``. It doubles the time of `fit`, and usually gives higher scores.
        If False, the members that were fitted outside of a fold are kept.
    n_jobs : int, default=None
        Number of members that are fitted in parallel, each in its own process. None means 1, and -1
        means one per processor.
    random_state : int, RandomState instance or None, default=None
        Seed of the members, the folds and the samples.

    Attributes
    ----------
    estimators_ : list of estimators
        The fitted members: those of the first estimator, then those of the second, and so on. Each
        estimator has ``n_estimators`` members; with ``stacking=True`` and ``refit=True``, an
        estimator without ``random_state`` has only one, since fits to all rows would be the same.
    weights_ : ndarray of shape (n_members,)
        Weights of the members. They sum to one.
    held_out_scores_ : ndarray of shape (n_samples,)
        Log-likelihood of each row of the fit under fits to other rows, in nats. Its mean estimates
        the score of new rows. It can be too low, because each row is scored by one fit of each
        estimator, without the rows of its fold, and slightly too high, because the weights were
        chosen on these rows. Defined only with ``stacking=True``.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Defined only when `X` has feature names that are all strings.

    See Also
    --------
    EnergyVAE : A single fit, which is enough for many rows.
    sklearn.ensemble.BaggingRegressor : The mean of several regressors.

    References
    ----------
    .. [1] Smyth & Wolpert (1999). "Linearly combining density estimators via stacking".
    .. [2] Lakshminarayanan, Pritzel & Blundell (2017). "Simple and scalable predictive uncertainty
       estimation using deep ensembles".
    .. [3] van der Laan, Polley & Hubbard (2007). "Super learner".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyEnsemble, EnergyVAE
    >>> X = load_iris().data
    >>> member = EnergyVAE(4, max_iter=5)
    >>> model = EnergyEnsemble(member, n_estimators=2, random_state=0).fit(X)
    >>> model.score_samples(X).shape
    (150,)
    >>> bool(model.score(X) > min(fitted.score(X) for fitted in model.estimators_))
    True

    Two kinds of networks, weighted by held-out rows:

    >>> kinds = [member, EnergyVAE(4, network="densenet", max_iter=5)]
    >>> model = EnergyEnsemble(kinds, n_estimators=2, stacking=True, random_state=0).fit(X)
    >>> model.weights_.shape
    (4,)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "estimator": [DensityEstimatorInstance(), list, None],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "stacking": ["boolean"],
        "refit": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        n_estimators=5,
        stacking=False,
        refit=True,
        n_jobs=None,
        random_state=None,
    ):
        self.estimator = estimator
        self.n_estimators = n_estimators
        self.stacking = stacking
        self.refit = refit
        self.n_jobs = n_jobs
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        kinds = [get_tags(kind).input_tags.allow_nan for kind in self._kinds]
        tags.input_tags.allow_nan = all(kinds)
        return tags

    @property
    def _kinds(self) -> list[Any]:
        if isinstance(self.estimator, list):
            return self.estimator
        return [EnergyVAE() if self.estimator is None else self.estimator]

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the members.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the fits and in the choice of the weights.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If an estimator is not a density estimator or, with ``sample_weight``, does not take
            weights. If some estimators treat a column as categorical or integer, and others as
            continuous. With ``stacking=False``, if an estimator has no ``random_state``, because
            its members would be the same. With ``stacking=True``, if ``n_estimators`` is 1 or
            greater than the number of rows, or if an estimator cannot score held-out rows.
        """
        if not self._kinds:
            raise ValueError("estimator=[] has no density estimator. Give at least one, or None.")
        for kind in self._kinds:
            self._check_kind(kind, sample_weight is not None)
        # A stream is read here, once for all members.
        X = from_stream(X)
        columns = common_columns(self._kinds, X)
        seed = draw_seed(self.random_state)
        members = [
            with_kinds_of(columns, _with_seed(kind, member_seed))
            for kind in self._kinds
            for member_seed in spawn(seed, self.n_estimators)
        ]
        run = Parallel(n_jobs=self.n_jobs)
        if self.stacking:
            fitted, weights, held_out_scores = Stack.fit(
                run,
                members,
                X,
                sample_weight,
                n_folds=self.n_estimators,
                refit=self.refit,
                seed=seed,
            )
        else:
            fitted = fit_members(run, members, X, sample_weight)
            weights, held_out_scores = np.full(len(members), 1 / len(members)), None
        self._take_features(fitted[0])
        self._columns = columns
        self.estimators_, self.weights_ = fitted, weights
        if held_out_scores is not None:
            self.held_out_scores_ = held_out_scores
        elif hasattr(self, "held_out_scores_"):
            del self.held_out_scores_
        return self

    def _check_kind(self, kind: Any, weighted: bool) -> None:
        validate_parameter_constraints(
            {"estimator": [DensityEstimatorInstance()]},
            {"estimator": kind},
            caller_name=type(self).__name__,
        )
        if not (self.stacking or "random_state" in kind.get_params()):
            raise ValueError(
                f"estimator={kind!r} has no random_state, so all members would be the same. Use it "
                "without an ensemble, or with stacking=True."
            )
        if weighted:
            check_takes_weights(kind)

    def score_samples(self, X):
        """Log-likelihood of each row.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            Logarithm of the weighted mean of the members' densities, in nats, on the scale of X.

        Raises
        ------
        ValueError, TypeError
            If X does not have the columns of `fit`, or holds values that these cannot have.
        """
        check_is_fitted(self, "estimators_")
        scores = np.stack([member.score_samples(X) for member in self.estimators_])
        return mean_density(scores, self.weights_)

    def score(self, X, y=None, sample_weight=None):
        """Mean log-likelihood of the rows of X.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        y : Ignored
            For API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the mean.

        Returns
        -------
        float
            Mean of `score_samples`, in nats, on the scale of X.
        """
        return mean_score(self.score_samples(X), sample_weight)

    def sample(self, n_samples=1, random_state=None):
        """Draw rows, each from a member chosen at random by its weight.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None uses the estimator's own ``random_state``.

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            In random order. If `fit` was called with a DataFrame, a DataFrame with the same columns
            and dtypes.

        Raises
        ------
        ValueError
            If ``n_samples`` is not an integer of at least 1.
        """
        check_is_fitted(self, "estimators_")
        validate_parameter_constraints(
            {"n_samples": [Interval(Integral, 1, None, closed="left")]},
            {"n_samples": n_samples},
            caller_name=f"{type(self).__name__}.sample",
        )
        state = self.random_state if random_state is None else random_state
        choice, *seeds = spawn(draw_seed(state), 1 + len(self.estimators_))
        rng = np.random.default_rng(choice)
        counts = rng.multinomial(n_samples, self.weights_)
        parts = [
            self._like_x(seeded_sample(member, int(count), seed))
            for member, count, seed in zip(self.estimators_, counts, seeds, strict=True)
            if count
        ]
        return _joined(parts, rng.permutation(n_samples))

    def _like_x(self, rows: Any) -> Any:
        """Rows as a DataFrame if `fit` was called with one; some members only return arrays."""
        if self._columns is None or as_frame(rows) is not None:
            return rows
        return self._columns.rows(np.asarray(rows, dtype=np.float64))


def _with_seed(template: Any, seed: int) -> Any:
    """Clone an estimator with another ``random_state``, if it has one."""
    member = clone(template)
    return member.set_params(random_state=seed) if "random_state" in member.get_params() else member


def _joined(parts: list[Any], order: np.ndarray) -> Any:
    """Concatenate arrays or DataFrames, and put their rows into the given order."""
    frames = [frame for frame in map(as_frame, parts) if frame is not None]
    if not frames:
        return np.concatenate(parts)[order]
    return nw.maybe_reset_index(nw.concat(frames)[order.tolist()]).to_native()
