"""Tables with missing values, categories and integers: compare held-out log-likelihoods.

    python examples/benchmarks/mixed.py --data FOLDER            # csv files, plain or gzipped
    python examples/benchmarks/mixed.py --quick                  # a small generated table, seconds

All models are compared by the mean over held-out rows of the log-likelihood of their observed
entries, in nats: a density for continuous columns, and a probability for categories and integers.
Kinds of columns are those that `EnergyVAE` finds by default.

- EnergyVAE: its defaults, untuned.
- independent columns: frequencies with a pseudo-count for categories; kernel densities for numbers,
  of whose mass integers have that of their unit interval; bandwidths by cross-validation.
- GaussianMixture: on one-hot categories and integers with uniform noise added; the logarithm of the
  mean density over draws of the noise, which in expectation is below the log-likelihood. Components
  by held-out rows. Where no entry is missing.
- SPFlow: a sum-product network by spflow's LearnSPN, scored by its SPFlowDensityEstimator.
- VineDensity: pyvinecopulib's vine copula with kernel margins. Where no entry is missing.

The last three are mixed with 1% of the independent columns, because single rows have a density of
zero, or next to it, under them.

Results are appended to a file immediately; an interrupted run resumes.
"""

import argparse
import json
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from mixed_peers import spflow_density, vine_density
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from tables import markdown

from skevae import EnergyVAE
from skevae.estimators.columns import Columns

OUTPUT = Path(__file__).resolve().parents[1] / "output"
BANDWIDTHS = np.geomspace(0.02, 1, 15)
N_COMPONENTS = (1, 2, 5, 10, 20, 50)
N_NOISES = 20
SHARE = 0.01


def generated_table():
    """A small table of mixed columns with holes."""
    rng = np.random.RandomState(0)
    z = rng.randn(400)
    frame = pd.DataFrame(
        {
            "x": z + 0.3 * rng.randn(400),
            "kind": np.where(z > 0, "a", "b"),
            "count": rng.poisson(np.exp(1 + 0.5 * z)),
        }
    )
    frame.loc[rng.rand(400) < 0.1, "x"] = np.nan
    return frame


def column_score(train, test, integer):
    """Kernel density of one column of numbers: log-density, or log-mass of unit intervals."""
    scale = train.std() or 1.0

    def score(rows, seen, bandwidth):
        # Equal values have equal kernels and equal scores.
        at, where = np.unique(rows, return_inverse=True)
        centres, counts = np.unique(seen, return_counts=True)
        weights = counts / len(seen)
        if not integer:
            parts = norm.logpdf(at[:, None], centres, bandwidth * scale)
            return logsumexp(parts, axis=1, b=weights)[where]
        upper = norm.cdf((at[:, None] + 0.5 - centres) / (bandwidth * scale))
        lower = norm.cdf((at[:, None] - 0.5 - centres) / (bandwidth * scale))
        return np.log(np.maximum((upper - lower) @ weights, 1e-12))[where]

    half = np.random.RandomState(0).permutation(len(train))
    fold, rest = train[half[: len(train) // 5]], train[half[len(train) // 5 :]][:2000]
    best = max(BANDWIDTHS, key=lambda b: score(fold, rest, b).mean())
    return score(test, train[:4000], best)


def independent_columns(columns, train, test, seed):
    train, test = columns.numbers(train), columns.numbers(test)
    total = np.zeros(len(test))
    for j, n_categories in enumerate(columns.n_categories):
        seen, there = train[~np.isnan(train[:, j]), j], ~np.isnan(test[:, j])
        if n_categories:
            counts = np.bincount(seen.astype(int), minlength=n_categories) + 0.5
            total[there] += np.log(counts / counts.sum())[test[there, j].astype(int)]
        else:
            total[there] += column_score(seen, test[there, j], columns.integer[j])
    return total


def dequantised(columns, rows, rng):
    """One-hot categories and integers with uniform noise, which fills the cells between them."""
    parts = []
    for j, n_categories in enumerate(columns.n_categories):
        if n_categories:
            parts.append(np.eye(n_categories)[rows[:, j].astype(int)][:, 1:])
        else:
            parts.append(rows[:, [j]])
        if n_categories or columns.integer[j]:
            parts[-1] = parts[-1] + rng.uniform(-0.5, 0.5, parts[-1].shape)
    return np.hstack(parts)


def gaussian_mixture(columns, train, test, seed):
    train, test = columns.numbers(train), columns.numbers(test)
    if np.isnan(train).any() or np.isnan(test).any():
        return None
    rng = np.random.RandomState(seed)
    filled = dequantised(columns, train, rng)
    centre, scale = filled.mean(0), filled.std(0)
    search = GridSearchCV(
        GaussianMixture(reg_covar=1e-4, random_state=seed),
        {"n_components": N_COMPONENTS, "covariance_type": ["full", "diag"]},
        cv=ShuffleSplit(1, test_size=0.2, random_state=0),
        error_score=-np.inf,
    ).fit((filled - centre) / scale)
    noisy = [(dequantised(columns, test, rng) - centre) / scale for _ in range(N_NOISES)]
    densities = logsumexp([search.score_samples(X) for X in noisy], axis=0) - np.log(N_NOISES)
    return densities - np.log(scale).sum()


def never_zero(density):
    """The density mixed with a little of the independent columns."""

    def mixed(columns, train, test, seed):
        scores = density(columns, train, test, seed)
        if scores is None:
            return None
        rest = independent_columns(columns, train, test, seed)
        return np.logaddexp(np.log1p(-SHARE) + scores, np.log(SHARE) + rest)

    return mixed


def energy_vae(columns, train, test, seed, **params):
    return EnergyVAE(random_state=seed, **params).fit(train).score_samples(test)


MODELS = {
    "EnergyVAE": energy_vae,
    "independent columns": independent_columns,
    "GaussianMixture": never_zero(gaussian_mixture),
    "SPFlow": never_zero(spflow_density),
    "VineDensity": never_zero(vine_density),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of csv files")
    parser.add_argument("--quick", action="store_true", help="a generated table, brief fits")
    parser.add_argument("--only", nargs="*", default=list(MODELS), help="models to run")
    parser.add_argument("--output", type=Path, default=OUTPUT / "mixed.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    tables = {"generated": generated_table} if args.quick or args.data is None else {}
    if args.data is not None:
        files = sorted([*args.data.glob("*.csv"), *args.data.glob("*.csv.gz")])
        tables |= {f.name.split(".")[0]: (lambda f=f: pd.read_csv(f)) for f in files}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    done = {(r["table"], r["model"], r["seed"]): r for r in map(json.loads, lines)}
    for name, read in tables.items():
        frame = read()
        # Declared, because a rare category may only occur in held-out rows.
        words = frame.select_dtypes(["object", "string"]).columns
        frame = frame.astype(dict.fromkeys(words, "category"))
        train, test = train_test_split(frame, test_size=0.2, random_state=args.seed)
        columns = Columns(frame, "from_dtype", "from_dtype", "error")
        for model in args.only:
            if (name, model, args.seed) in done:
                continue
            params = {"max_iter": 3} if args.quick and model == "EnergyVAE" else {}
            start = perf_counter()
            try:
                scores = MODELS[model](columns, train, test, args.seed, **params)
            except ImportError as error:
                print(f"{name:16} {model:20} skipped: {error}")
                continue
            if scores is None:
                continue
            result = {
                "table": name,
                "model": model,
                "seed": args.seed,
                "score": float(np.mean(scores)),
                "error": float(np.std(scores) / np.sqrt(len(scores))),
                "seconds": perf_counter() - start,
            }
            done[name, model, args.seed] = result
            with args.output.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(
                "{table:16} {model:20} {score:9.3f} +- {error:.3f} {seconds:6.1f} s".format(
                    **result
                )
            )
    rows = []
    for name in tables:
        found = {m: done.get((name, m, args.seed)) for m in MODELS}
        cells = [f"{r['score']:.2f} +- {r['error']:.2f}" if r else "" for r in found.values()]
        rows.append([name, *cells])
    print()
    print(markdown(["table", *MODELS], rows))


if __name__ == "__main__":
    main()
