"""Data sets of the density benchmarks, and their common splits and preprocessing.

    from density_sets import find_sets, likelihood_split, outlier_split
    sets = find_sets("folder/of/npz")       # name -> function of a seed that loads the set
    split = likelihood_split(sets["tabular:wine"], seed=0)
    split.train, split.test                 # what every estimator is given

Tabular rows are standardised by the training part, clipped to +-10 and given Gaussian noise of 0.05
standard deviations, so that discrete columns have a density. Log-likelihoods are then in nats on
that scale. The toy densities are only standardised, and that is undone in their scores, so that
they compare with the exact density.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from sklearn import datasets

from skevae.datasets import TOY_DENSITIES, toy_density
from skevae.datasets.mnist import fetch_binarized_mnist

MAX_ROWS = 8_000
TRAIN_FRACTION = 0.8
CLIP = 10.0
NOISE = 0.05
TOY_ROWS = {"train": 20_000, "test": 5_000}


@dataclass
class Table:
    """Rows as they come, before any split."""

    X: np.ndarray
    outlier: np.ndarray | None = None  # True marks an outlier; None: the set has no such labels
    log_density: Callable | None = None  # the exact density, where it is known
    max_rows: int = MAX_ROWS


@dataclass
class Split:
    """What an estimator is fitted and scored on.

    Add `log_jacobian` to log-densities of `test`: it undoes what the preparation did to the scale.
    """

    train: np.ndarray
    test: np.ndarray
    outlier: np.ndarray | None = None  # of the test rows
    log_jacobian: float = 0.0
    truth: np.ndarray | None = None  # exact log-densities of the test rows, log_jacobian included


def find_sets(folder=None, mnist=None):
    """Return the data sets, a dict of name to function (seed) -> Table.

    Parameters
    ----------
    folder : path or None
        Of npz files with X and, optionally, y, where 1 marks an outlier.
    mnist : path, "openml" or None
        An npz file as `skevae.datasets.fetch_binarized_mnist` reads it, or the download.
    """
    sets = {}
    if folder is not None:
        files = sorted(Path(folder).glob("*.npz"))
        if not files:
            raise FileNotFoundError(f"There are no npz files in {str(folder)!r}.")
        sets |= {f"tabular:{file.stem}": partial(load_npz, file) for file in files}
    sets |= {f"sklearn:{name}": load for name, load in BUNDLED.items()}
    sets |= {f"toy:{name}": partial(load_toy, name) for name in TOY_DENSITIES}
    if mnist is not None:
        sets["mnist"] = partial(load_mnist, None if mnist == "openml" else mnist)
    return sets


def load_npz(file, seed):
    with np.load(file, allow_pickle=False) as arrays:
        outlier = arrays["y"] == 1 if "y" in arrays else None
        return Table(arrays["X"].astype(np.float64), outlier)


def load_bundled(load, seed):
    return Table(load().data.astype(np.float64))


def load_breast_cancer(seed):
    X, benign = datasets.load_breast_cancer(return_X_y=True)
    return Table(X, benign == 0)  # malignant tumours as the outliers, as is usual


def load_digits(seed):
    X = datasets.load_digits().data
    return Table(X + np.random.default_rng(seed).uniform(size=X.shape))


def load_toy(name, seed):
    density = toy_density(name)
    X = density.sample(sum(TOY_ROWS.values()), random_state=seed)
    return Table(X, log_density=density.log_density, max_rows=len(X))


def load_mnist(file, seed):
    X, _ = fetch_binarized_mnist(local_npz=file, return_X_y=True)
    rng = np.random.default_rng(seed)
    X = 255 * X[rng.permutation(len(X))[:MAX_ROWS]].astype(np.float64)
    return Table(X + rng.uniform(size=X.shape))


BUNDLED = {
    "iris": partial(load_bundled, datasets.load_iris),
    "wine": partial(load_bundled, datasets.load_wine),
    "breast_cancer": load_breast_cancer,
    "diabetes": partial(load_bundled, datasets.load_diabetes),
    "digits": load_digits,
}


def likelihood_split(load, seed, max_rows=None):
    """All rows, whatever their labels, at random into a training and a test part."""
    table = load(seed)
    rng = np.random.default_rng(seed)
    X = table.X[rng.permutation(len(table.X))[: max_rows or table.max_rows]]
    n_train = int(TRAIN_FRACTION * len(X))
    train, test = X[:n_train], X[n_train:]
    if table.log_density is not None:
        mean, scale = moments(train)
        return Split(
            (train - mean) / scale,
            (test - mean) / scale,
            log_jacobian=-np.log(scale).sum(),
            truth=table.log_density(test),
        )
    return Split(*prepare(train, test, rng))


def outlier_split(load, seed, max_rows=None):
    """Training rows are inliers only; test rows are the other inliers and all outliers.

    Returns None for a set without labels.
    """
    table = load(seed)
    if table.outlier is None or not table.outlier.any():
        return None
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(table.X))[: max_rows or table.max_rows]
    X, outlier = table.X[order], table.outlier[order]
    inliers = X[~outlier]
    n_train = int(TRAIN_FRACTION * len(inliers))
    test = np.concatenate([inliers[n_train:], X[outlier]])
    labels = np.arange(len(test)) >= len(inliers) - n_train
    return Split(*prepare(inliers[:n_train], test, rng), outlier=labels)


def moments(train):
    """Mean and standard deviation of each column; 1 for a constant one."""
    scale = train.std(axis=0)
    return train.mean(axis=0), np.where(scale > 0, scale, 1.0)


def prepare(train, test, rng):
    """Standardise by the training part, clip, and add noise."""
    mean, scale = moments(train)
    return [
        np.clip((part - mean) / scale, -CLIP, CLIP) + NOISE * rng.normal(size=part.shape)
        for part in (train, test)
    ]
