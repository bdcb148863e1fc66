"""Densities of mixed tables from other packages, for `mixed.py` and, of numbers, for `fit.py`.

Both are fitted on the numbers of `skevae.estimators.columns.Columns`: categories as 0, 1, ...,
holes as nan. Their scores are densities of continuous columns times probabilities of the others.
"""

import contextlib
import io

import numpy as np
from sklearn.base import BaseEstimator

from skevae.estimators.columns import Columns

# Rows below which a node of the sum-product network is not split further; by held-out rows.
MIN_ROWS = (50, 100, 300)
# Integer columns with no more values than this get a categorical leaf.
MAX_VALUES = 50
# Of a normal leaf, in standard deviations of the column: the smallest scale.
SCALE_FLOOR = 0.02


class ContinuousDensity(BaseEstimator):
    """One of the densities below on an array of continuous columns, as an estimator.

    It is fitted when rows are scored.

    Parameters
    ----------
    density : callable (columns, train, test, seed) -> log-densities of the test rows
    random_state : int
    """

    fits_when_scored = True

    def __init__(self, density, random_state=0):
        self.density = density
        self.random_state = random_state

    def fit(self, X, y=None):
        self.columns_ = Columns(X, None, None, "error")
        self.X_ = X
        return self

    def score_samples(self, X):
        return self.density(self.columns_, self.X_, X, self.random_state)


def vine_density(columns, train, test, seed):
    """pyvinecopulib's VineDensity with its defaults, which declares columns as discrete.

    Categories are ordered by their codes: it measured better than dummies. None for tables with
    holes, which it does not take.
    """
    from pyvinecopulib.sklearn import VineDensity

    train, test = columns.numbers(train), columns.numbers(test)
    if np.isnan(train).any() or np.isnan(test).any():
        return None
    kinds = np.where((columns.n_categories > 0) | columns.integer, "d", "c")
    rows = np.vstack([train, test])
    supports = [
        (rows[:, j].min(), rows[:, j].max()) if kind == "d" else None
        for j, kind in enumerate(kinds)
    ]
    vine = VineDensity(random_state=seed)
    vine.schema_ = {"var_types": kinds.tolist(), "supports": supports}
    return vine.fit(train).score_samples(test)


def spflow_density(columns, train, test, seed):
    """Sum-product network learned by spflow, scored by its SPFlowDensityEstimator.

    Leaves: a categorical, with half a pseudo-count, for categories and integers of few values; a
    normal for other numbers, of which integers have the mass of their unit interval. Holes are
    marginalised, and filled by means only where rows are clustered and columns tested for
    independence.
    """
    import torch

    train, test = columns.numbers(train), columns.numbers(test)
    n_levels, shift = columns.n_categories.copy(), np.zeros(len(test))
    scale = np.ones(len(n_levels))
    for j, is_integer in enumerate(columns.integer):
        values = np.unique(train[:, j][~np.isnan(train[:, j])])
        observed = ~np.isnan(test[:, j])
        if is_integer and len(values) <= MAX_VALUES:
            n_levels[j] = len(values)
            shift[observed & ~np.isin(test[:, j], values)] = -np.inf
            for rows in (train, test):
                codes = np.searchsorted(values, rows[:, j]).clip(max=len(values) - 1)
                rows[:, j] = np.where(np.isnan(rows[:, j]), np.nan, codes)
        elif not n_levels[j]:
            centre, scale[j] = np.nanmean(train[:, j]), np.nanstd(train[:, j]) or 1.0
            train[:, j], test[:, j] = (
                (train[:, j] - centre) / scale[j],
                (test[:, j] - centre) / scale[j],
            )
            shift[observed] -= 0 if is_integer else np.log(scale[j])
    kinds = n_levels, columns.integer, scale
    order = np.random.RandomState(seed).permutation(len(train))
    fold, rest = train[order[: len(train) // 5]], train[order[len(train) // 5 :]]
    with torch.random.fork_rng(), float64(torch), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(seed)
        held_out = [learn(kinds, rest, n).score_samples(fold).mean() for n in MIN_ROWS]
        best = MIN_ROWS[int(np.argmax(held_out))]
        return learn(kinds, train, best).score_samples(test) + shift


@contextlib.contextmanager
def float64(torch):
    """Leaves take their dtype from torch's default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def learn(kinds, train, min_rows):
    """Structure and parameters by LearnSPN, as an estimator."""
    import torch
    from spflow.interfaces.sklearn import SPFlowDensityEstimator
    from spflow.learn.learn_spn import cluster_by_kmeans, learn_spn, partition_by_rdc

    rows = torch.as_tensor(train)
    means = torch.nanmean(rows, 0)

    def filled(data, centres):
        return torch.where(torch.isnan(data), centres, data)

    def cluster(data):
        parts = []
        for j, n_categories in enumerate(kinds[0]):
            if n_categories:
                levels = torch.arange(n_categories, dtype=data.dtype)
                parts.append((data[:, [j]] == levels).to(data.dtype))
            else:
                parts.append(filled(data[:, [j]], means[j]))
        labels = cluster_by_kmeans(torch.cat(parts, 1))
        # Rows that are all equal are one cluster, which would be split without end.
        return labels if len(labels.unique()) > 1 else torch.arange(len(data)) % 2

    def partition(data):
        if len(data) < min_rows:
            return torch.zeros(data.shape[1])
        # Noise, because the test for independence fails on constant columns.
        data = filled(data, torch.nan_to_num(torch.nanmean(data, 0)))
        return partition_by_rdc(data + 1e-6 * torch.randn_like(data))

    network = learn_spn(
        rows,
        leaf_modules=[leaf(kinds, rows, j) for j in range(rows.shape[1])],
        min_instances_slice=min_rows,
        clustering_method=cluster,
        partitioning_method=partition,
    )
    return SPFlowDensityEstimator(network, fit_params=False, dtype="float64").fit(train)


def leaf(kinds, rows, j):
    """Template of the leaves of one column; LearnSPN makes its leaves from the template's class."""
    from spflow.meta.data.scope import Scope
    from spflow.modules.leaves import Categorical, Normal

    n_categories, is_integer, scale = (kind[j].item() for kind in kinds)

    class Leaf(Categorical if n_categories else Normal):
        def __init__(self, scope, out_channels=1):
            options = {"K": n_categories} if n_categories else {}
            super().__init__(scope=scope, out_channels=out_channels, **options)

        def maximum_likelihood_estimation(self, data, weights=None, **options):
            if data[:, j].isnan().all():
                data = rows
            super().maximum_likelihood_estimation(data, weights, nan_strategy="ignore")

        def _compute_parameter_estimates(self, data, weights, bias_correction):
            found = super()._compute_parameter_estimates(data, weights, bias_correction)
            if n_categories:
                n = len(data)
                found["probs"] = (found["probs"] * n + 0.5) / (n + 0.5 * n_categories)
            else:
                found["scale"] = found["scale"].nan_to_num(1.0).clamp(min=SCALE_FLOOR)
            return found

    class IntegerLeaf(Leaf):
        def log_likelihood(self, data, cache=None):
            half = 0.5 / scale
            return self._log_likelihood_interval(data - half, data + half)

    return (IntegerLeaf if is_integer and not n_categories else Leaf)(Scope([j]))
