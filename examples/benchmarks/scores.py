"""Scores with fitted proposals, compared with twice as many draws from the encoder's posteriors.

    python examples/benchmarks/scores.py [--data FOLDER] [--mixed FOLDER] [--sets "*"] [--rows 300]

Each set is fitted once by ``EnergyVAE()``. Its test rows are then scored by 500 draws with refined
proposals, as by default, and by 1,000 draws of the encoder's posteriors, as if there were no
refinement; the time of the former is given as a multiple of that of the latter. The last column is
what twenty times as many draws change on the first 50 rows.
"""

import argparse
import fnmatch
import math
from functools import partial
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import numpy as np
import pandas as pd
from density_sets import find_sets, likelihood_split
from sklearn.model_selection import train_test_split
from tables import rst

from skevae import EnergyVAE
from skevae.evaluation.methods import METHODS

HEADER = [
    "table",
    "encoder: score",
    "k-hat > 0.7",
    "effective draws",
    "refined: score",
    "k-hat > 0.7",
    "effective draws",
    "time",
    "20 times the draws",
]


def scored(model, X, n_draws, *, refine=True):
    """Score rows; their diagnostics, and the seconds that it took."""
    # Nothing else turns the refinement off but to ask for few draws.
    method = METHODS["importance"]._replace(min_refined_draws=100 if refine else math.inf)
    with patch.dict(METHODS, importance=method):
        model._cache.clear()
        model.log_likelihood(X[:2], n_draws=n_draws)
        start = perf_counter()
        result = model.log_likelihood(X, n_draws=n_draws)
        return result, perf_counter() - start


def cells(result):
    unreliable = np.mean(result.pareto_k > 0.7)
    return [
        f"{result.log_likelihood.mean():.3f}",
        f"{unreliable:.1%}",
        f"{np.median(result.effective_sample_size):.0f}",
    ]


def numbers(load):
    """Training and test rows of a set of `find_sets`."""
    split = likelihood_split(load, 0)
    return split.train, split.test


def mixed(file):
    """Training and test rows of a table with categories and missing values."""
    return train_test_split(pd.read_csv(file), test_size=0.2, random_state=0)


def compare(name, train, test):
    """One row of the table."""
    model = EnergyVAE(random_state=0).fit(train)
    plain, plain_time = scored(model, test, 1000, refine=False)
    refined, refined_time = scored(model, test, 500)
    many, _ = scored(model, test[:50], 10_000)
    change = many.log_likelihood.mean() - refined.log_likelihood[:50].mean()
    ratio = f"{refined_time / plain_time:.2f}"
    return [name, *cells(plain), *cells(refined), ratio, f"{change:+.3f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of npz files")
    parser.add_argument("--mixed", help="folder of csv files")
    parser.add_argument("--sets", nargs="+", default=["tabular:*", "sklearn:*", "mixed:*"])
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    sets = {name: partial(numbers, load) for name, load in find_sets(options.data).items()}
    if options.mixed is not None:
        files = sorted(Path(options.mixed).glob("*.csv*"))
        sets |= {f"mixed:{file.name.split('.')[0]}": partial(mixed, file) for file in files}
    lines = []
    for name, load in sets.items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.sets):
            train, test = load()
            lines.append(compare(name, train, test[: options.rows]))
            print(*lines[-1], flush=True)
    print(rst(HEADER, lines))
