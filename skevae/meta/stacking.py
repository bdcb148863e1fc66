"""Stacking of densities: kinds weighted by rows to which their members were not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, cycle
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight, _num_samples

from skevae.utils.arrays import from_torch

# Rows outside of a fold, to which a member is fitted, and those inside, which it scores.
Fold = tuple[np.ndarray, np.ndarray]


class Stack(NamedTuple):
    """Fitted members, and weights chosen by fits outside of one fold each."""

    members: list[Any]
    weights: np.ndarray
    held_out_scores: np.ndarray

    @classmethod
    def fit(
        cls,
        run: Parallel,
        members: Sequence[Any],
        X: Any,
        sample_weight: Any,
        *,
        n_folds: int,
        refit: bool,
        seed: int,
    ) -> Stack:
        """Fit members of one or several kinds and weight the kinds.

        Parameters
        ----------
        run : Parallel
            Runs the fits.
        members : sequence of unfitted density estimators
            As many of each kind as there are folds, those of the first kind first.
        X : array-like or DataFrame of shape (n_samples, n_features)
        sample_weight : array-like of shape (n_samples,) or None
            Rows of weight 0 are in no fit and do not change the weights; they are only scored.
        n_folds : int
        refit : bool
            Whether members are fitted again, to all rows, when the weights are known.
        seed : int
            Determines which rows are in which fold.

        Returns
        -------
        Stack

        Raises
        ------
        ValueError
            If there is only one fold, or are more folds than rows of positive weight, or if an
            estimator cannot score held-out rows.
        """
        (X,) = indexable(X)
        n_rows = _num_samples(X)
        if sample_weight is not None:
            sample_weight = from_torch(sample_weight, "sample_weight")
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        folds = _folds(n_rows, sample_weight, n_folds, seed)
        fitted, scores = zip(
            *run(
                delayed(_fit_outside)(clone(member), X, sample_weight, *fold)
                for member, fold in zip(members, cycle(folds), strict=False)
            ),
            strict=True,
        )
        order = np.argsort(np.concatenate([inside for _, inside in folds]))
        by_kind = np.concatenate(scores).reshape(-1, n_rows)[:, order]
        weights = stacking_weights(by_kind, sample_weight)
        counts = np.full(len(weights), n_folds)
        if refit:
            of_kinds = [members[i : i + n_folds] for i in range(0, len(members), n_folds)]
            different = [kind if _has_seed(kind[0]) else kind[:1] for kind in of_kinds]
            counts = np.array([len(kind) for kind in different])
            chosen = list(chain.from_iterable(different))
            fitted = tuple(fit_members(run, chosen, X, sample_weight))
        of_members = np.repeat(weights / counts, counts)
        return cls(list(fitted), of_members, mean_density(by_kind, weights))


def fit_members(run: Parallel, members: Sequence[Any], X: Any, sample_weight: Any) -> list[Any]:
    """Fit each member to all rows."""
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    return run(delayed(member.fit)(X, **weights) for member in members)


def stacking_weights(
    scores: np.ndarray,
    sample_weight: np.ndarray | None = None,
    *,
    tol: float = 1e-8,
    n_steps: int = 3000,
) -> np.ndarray:
    r"""Weights of a mixture of given densities that maximise the likelihood of held-out rows.

    They are found by expectation maximisation: with the responsibilities
    :math:`r_{ij} = w_j p_j(x_i) / \sum_k w_k p_k(x_i)`, the new :math:`w_j` is the mean of
    :math:`r_{ij}` over rows. The log-likelihood is concave in w, so the maximum is global.

    Parameters
    ----------
    scores : ndarray of shape (n_densities, n_rows)
        ln p_j of each row, in nats. Rows that no density allows are ignored.
    sample_weight : ndarray of shape (n_rows,), default=None
    tol : float, default=1e-8
        Steps end once the mean log-likelihood is at most this far below its maximum, in nats.
    n_steps : int, default=3000
        Maximum number of steps.

    Returns
    -------
    ndarray of shape (n_densities,)
        Not negative, with sum one.

    References
    ----------
    .. [1] Smyth & Wolpert (1999). "Linearly combining density estimators via stacking".
    """
    by_row = np.ones(scores.shape[1])
    if sample_weight is not None:
        by_row = sample_weight / max(sample_weight.max(), np.finfo(float).tiny)
    used = np.isfinite(scores.max(axis=0)) & (by_row > 0)
    weights = np.full(len(scores), 1 / len(scores))
    if not used.any():
        return weights
    scores, by_row = scores[:, used], by_row[used] / by_row[used].sum()
    density = np.exp(scores - scores.max(axis=0))
    for _ in range(n_steps):
        gain = density @ (by_row / (weights @ density))
        # By concavity, the maximum is at most max(gain) - 1 higher.
        if gain.max() - 1 < tol:
            break
        weights = weights * gain
    return weights / weights.sum()


def mean_density(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logarithm of the weighted mean of the densities in rows of ``scores``, for each column."""
    return logsumexp(scores, axis=0, b=weights[:, None])


def _has_seed(member: Any) -> bool:
    """Whether fits to the same rows can differ."""
    return any(name.rpartition("__")[-1] == "random_state" for name in member.get_params())


def _folds(n_rows: int, sample_weight: np.ndarray | None, n_folds: int, seed: int) -> list[Fold]:
    """Split the rows at random; those of weight 0 by themselves, and only to be scored."""
    weighted = np.ones(n_rows, bool) if sample_weight is None else sample_weight > 0
    present, absent = np.flatnonzero(weighted), np.flatnonzero(~weighted)
    n_present = len(present)
    if not 2 <= n_folds <= n_present:
        raise ValueError(
            "With stacking=True, n_estimators is the number of folds. "
            f"n_estimators={n_folds} cannot split {n_present} row{'s' * (n_present != 1)}"
            f"{'' if sample_weight is None else ' of positive weight'}. Use at least 2, and at "
            "most the number of rows."
        )
    order = np.random.default_rng([seed, n_present]).permutation(present)
    inside = np.array_split(order, n_folds)
    others = np.array_split(absent, n_folds)
    return [
        (np.setdiff1d(present, fold), np.sort(np.concatenate([fold, other])))
        for fold, other in zip(inside, others, strict=True)
    ]


def _fit_outside(
    member: Any, X: Any, sample_weight: Any, outside: np.ndarray, inside: np.ndarray
) -> tuple[Any, np.ndarray]:
    """Fit a member to the rows outside of a fold, and score those inside."""
    weights = {} if sample_weight is None else {"sample_weight": sample_weight[outside]}
    member.fit(_safe_indexing(X, outside), **weights)
    try:
        scores = member.score_samples(_safe_indexing(X, inside))
    except ValueError as error:
        raise ValueError(
            f"estimator={member!r} was fitted outside of a fold and cannot score the rows inside: "
            f"{error} If a category is unknown, declare all categories: in pandas, by "
            "X.astype({column: 'category'}); in polars, by pl.Enum."
        ) from error
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (len(inside),):
        raise ValueError(
            f"estimator={member!r} must return a score for each row, but returned an array of "
            f"shape {scores.shape} for {len(inside)} rows."
        )
    n_bad = int((np.isnan(scores) | np.isposinf(scores)).sum())
    if n_bad:
        raise ValueError(
            f"estimator={member!r} scores {n_bad} held-out rows with NaN or infinity, so it cannot "
            "be weighted. Remove it, or use stacking=False."
        )
    return member, scores
