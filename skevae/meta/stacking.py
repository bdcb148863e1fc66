"""Stacking of densities: fits outside of each fold, weighted by the rows inside."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_sample_weight, _num_samples

Fold = tuple[np.ndarray, np.ndarray]


class Stack(NamedTuple):
    """Members that were each fitted outside of one fold, and their weights."""

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
        folds: int,
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
        folds : int
            Number of folds.
        seed : int
            Determines which rows are in which fold.

        Returns
        -------
        Stack

        Raises
        ------
        ValueError
            If there is only one fold, or are more folds than rows, and if an estimator scores
            held-out rows with NaN.
        """
        n_rows = _num_samples(X)
        parts = _folds(n_rows, folds, seed)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        fitted, scores = zip(
            *run(
                delayed(_fit_outside)(member, X, sample_weight, *part)
                for member, part in zip(members, cycle(parts), strict=False)
            ),
            strict=True,
        )
        order = np.argsort(np.concatenate([held_out for _, held_out in parts]))
        by_kind = np.concatenate(scores).reshape(-1, n_rows)[:, order]
        weights = stacking_weights(by_kind, sample_weight)
        return cls(list(fitted), np.repeat(weights / folds, folds), mean_density(by_kind, weights))


def stacking_weights(
    scores: np.ndarray, sample_weight: np.ndarray | None = None, *, n_steps: int = 10_000
) -> np.ndarray:
    r"""Weights of a mixture of given densities that maximise the likelihood of held-out rows.

    By expectation maximisation: with the responsibilities
    :math:`r_{ij} = w_j p_j(x_i) / \sum_k w_k p_k(x_i)`, the new :math:`w_j` is the mean of
    :math:`r_{ij}` over rows. The log-likelihood is concave in w, so the maximum is global.

    Parameters
    ----------
    scores : ndarray of shape (n_densities, n_rows)
        ln p_j of each row, in nats. Rows that no density allows are ignored.
    sample_weight : ndarray of shape (n_rows,), default=None
    n_steps : int, default=10_000
        Most steps. They end earlier once no weight moves by more than 1e-9.

    Returns
    -------
    ndarray of shape (n_densities,)
        Not negative, with sum one.

    References
    ----------
    .. [1] Smyth & Wolpert (1999). "Linearly combining density estimators via stacking".
    """
    allowed = np.isfinite(scores.max(axis=0))
    density = np.exp(scores[:, allowed] - scores[:, allowed].max(axis=0))
    by_row = np.ones(density.shape[1]) if sample_weight is None else sample_weight[allowed]
    weights = np.full(len(scores), 1 / len(scores))
    if by_row.sum() == 0:
        return weights
    by_row = by_row / by_row.sum()
    for _ in range(n_steps):
        before = weights
        weights = weights * (density @ (by_row / (weights @ density)))
        if np.abs(weights - before).max() < 1e-9:
            break
    return weights / weights.sum()


def mean_density(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logarithm of the weighted mean of the densities in rows of ``scores``, for each column."""
    return logsumexp(scores, axis=0, b=weights[:, None])


def _folds(n_rows: int, n_folds: int, seed: int) -> list[Fold]:
    """Split the rows at random: for each fold those outside of it, and its own."""
    if not 2 <= n_folds <= n_rows:
        raise ValueError(
            f"With stacking=True n_estimators is the number of folds. n_estimators={n_folds} "
            f"cannot split {n_rows} row{'s' * (n_rows != 1)}. Use 2 or more, at most one a row."
        )
    order = np.random.default_rng([seed, n_rows]).permutation(n_rows)
    folds = [np.sort(fold) for fold in np.array_split(order, n_folds)]
    return [(np.setdiff1d(order, fold, assume_unique=True), fold) for fold in folds]


def _fit_outside(
    member: Any, X: Any, sample_weight: Any, inside: np.ndarray, outside: np.ndarray
) -> tuple[Any, np.ndarray]:
    """Fit a member to the rows inside, and score those outside."""
    weights = {} if sample_weight is None else {"sample_weight": sample_weight[inside]}
    member.fit(_safe_indexing(X, inside), **weights)
    scores = np.asarray(member.score_samples(_safe_indexing(X, outside)), dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(
            f"estimator={member!r} scores {np.isnan(scores).sum()} held-out rows with NaN, so it "
            "cannot be weighted. Leave it out, or use stacking=False."
        )
    return member, scores
