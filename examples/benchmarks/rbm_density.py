"""Held-out log-likelihood on tabular data: Gaussian-Bernoulli RBM, mixtures and kernels.

Without a folder it runs on data that come with scikit-learn. A folder holds one .npz a data set,
with arrays X and y; rows with y = 1 are outliers and are left out:

    python examples/benchmarks/rbm_density.py [FOLDER] [--seed 0] [--max-rows 8000]
        [--output FILE.json] [--only NAME ...]

A fifth of the rows is held out. Columns are standardised by the other rows and clipped to +-10, and
noise from N(0, 0.05^2) is added to every value, so that discrete columns have a density. All models
use the same numbers. Parameters are chosen by validation on a fifth of the training rows, the same
for all models, which are then refitted on all training rows. The table is in nats a row, on the
standardised scale. Each result is saved as soon as it is known, so an interrupted run resumes.
"""

import argparse
import json
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from skevae import GaussianBernoulliRBMPrior

OUTPUT = Path(__file__).resolve().parents[1] / "output" / "rbm_density.json"
BUNDLED = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "diabetes": datasets.load_diabetes,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
NOISE, REACH = 0.05, 10.0


def searched(model, grid):
    """Search the grid on one validation split, and refit on all rows."""
    return lambda seed: GridSearchCV(
        model(seed), grid, cv=ShuffleSplit(1, test_size=0.2, random_state=seed)
    )


def rbm(seed):
    return GaussianBernoulliRBMPrior(random_state=seed)


def mixture(seed):
    # Variances below that of the noise that was added can only be flukes.
    return GaussianMixture(reg_covar=NOISE**2 / 4, random_state=seed)


MODELS = {
    "rbm": rbm,
    "rbm, searched": searched(rbm, {"n_components": [5, 10, 20]}),
    "mixture": searched(
        mixture,
        {
            "covariance_type": ["full", "tied", "diag", "spherical"],
            "n_components": [1, 2, 3, 5, 8, 12, 20, 40],
        },
    ),
    "kernel": searched(lambda seed: KernelDensity(), {"bandwidth": np.geomspace(0.05, 1.5, 12)}),
}


def read_folder(folder):
    """Name and inliers of each data set, smallest file first."""
    paths = sorted(Path(folder).glob("*.npz"), key=lambda path: path.stat().st_size)
    if not paths:
        raise SystemExit(f"no .npz file in {folder}")
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            yield path.stem, file["X"][file["y"] == 0]


def read_bundled():
    """Name and rows of data sets that come with scikit-learn."""
    for name, load in BUNDLED.items():
        yield name, load().data


def prepare(X, seed, max_rows):
    """Training and test rows: standardised by the former, clipped, with noise."""
    rng = np.random.default_rng(seed)
    X = np.asarray(X, dtype=float)
    X = X[rng.permutation(len(X))[:max_rows]]
    train, test = train_test_split(X, test_size=0.2, random_state=seed)
    scaler = StandardScaler().fit(train)
    parts = (np.clip(scaler.transform(part), -REACH, REACH) for part in (train, test))
    return [part + rng.normal(scale=NOISE, size=part.shape) for part in parts]


def evaluate(model, train, test):
    """Mean test log-likelihood in nats, its standard error, seconds of the fit, and the choice."""
    start = perf_counter()
    with warnings.catch_warnings():
        # Mixtures of many components on few rows fail or stop early; validation sorts them out.
        for kind in (ConvergenceWarning, FitFailedWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", "One or more of the test scores are non-finite")
        model.fit(train)
    seconds = perf_counter() - start
    scores = getattr(model, "best_estimator_", model).score_samples(test)
    return {
        "mean": scores.mean(),
        "error": scores.std(ddof=1) / np.sqrt(len(scores)),
        "seconds": seconds,
        "choice": {k: getattr(v, "item", lambda v=v: v)() for k, v in chosen(model).items()},
        "rows": len(train),
        "columns": train.shape[1],
    }


def chosen(model):
    """Return what the search chose, if there was one."""
    return getattr(model, "best_params_", {})


def run(sets, output, seed=0, max_rows=8000, models=MODELS):
    """Fill the file of results, leaving alone what it already holds, and return all of them."""
    results = json.loads(output.read_text()) if output.exists() else {}
    for name, X in sets:
        done = results.setdefault(f"{name}, seed {seed}, {max_rows} rows", {})
        train, test = prepare(X, seed, max_rows)
        for label, make in models.items():
            if label not in done:
                done[label] = evaluate(make(seed), train, test)
                save(results, output)
        print(row(name, done, models), flush=True)
    return results


def save(results, output):
    """Replace the file at once, so that no interruption leaves half of it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(output)


def row(name, done, models):
    """One line of the table; the best mean is starred."""
    best = max(done[label]["mean"] for label in models)
    cells = []
    for label in models:
        mean, error = done[label]["mean"], done[label]["error"]
        cells.append(f"{mean:9.2f} +- {error:4.2f}{'*' if mean == best else ' '}")
    size = next(iter(done.values()))
    return f"{name:14}{size['rows']:6}{size['columns']:5}" + "".join(f"{c:>19}" for c in cells)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="of .npz files; default: scikit-learn's data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-rows", type=int, default=8000)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--only", nargs="+", help="names of data sets")
    options = parser.parse_args()
    sets = read_folder(options.folder) if options.folder else read_bundled()
    sets = ((name, X) for name, X in sets if not options.only or name in options.only)
    print("held-out log-likelihood in nats a row, +- standard error, * best mean")
    print(f"{'data':14}{'rows':>6}{'cols':>5}" + "".join(f"{label:>19}" for label in MODELS))
    run(sets, options.output, options.seed, options.max_rows)
