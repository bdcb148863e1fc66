"""Imputation: removed entries against what imputers make of them.

    python examples/benchmarks/imputation.py --data FOLDER [FOLDER ...]   # csv tables, npz arrays
    python examples/benchmarks/imputation.py --quick                      # bundled data, seconds

Entries are removed completely at random. Numbers are judged by the root mean square error in
standard deviations of their column, categories by their error rate; the table ranks imputers by the
mean of all columns. Imputers of numbers alone are given one-hot categories, and the largest counts.

Results are appended to a file as soon as they are there; an interrupted run resumes.
"""

import argparse
import json
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.datasets import load_diabetes
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from tables import markdown

from skevae import EnergyImputer, EnergyVAE

OUTPUT = Path(__file__).resolve().parents[1] / "output"
MAX_ROWS = 3000


def one_hot(imputer, frame):
    """Impute by an imputer of numbers, categories as one-hot columns."""
    names = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    parts, owners = [], []
    for name in frame:
        if name in names:
            dummies = pd.get_dummies(frame[name], dtype=float)
            dummies[frame[name].isna()] = np.nan
            parts.append(dummies)
            owners.append((name, list(dummies.columns)))
        else:
            parts.append(frame[[name]].astype(float))
            owners.append((name, None))
    X = np.hstack([part.to_numpy() for part in parts])
    centre, scale = np.nanmean(X, 0), np.nanstd(X, 0)
    scale[scale == 0] = 1
    filled = imputer.fit_transform((X - centre) / scale) * scale + centre
    result, at = {}, 0
    for name, levels in owners:
        width = 1 if levels is None else len(levels)
        block = filled[:, at : at + width]
        result[name] = block[:, 0] if levels is None else np.array(levels)[block.argmax(1)]
        at += width
    return pd.DataFrame(result)


def energy(frame, seed, **params):
    estimator = EnergyVAE(mask_rate=0.2, random_state=seed, **params)
    return EnergyImputer(estimator).fit_transform(frame)


def trees(seed):
    forest = ExtraTreesRegressor(n_estimators=30, min_samples_leaf=3, n_jobs=1, random_state=seed)
    return IterativeImputer(forest, max_iter=5, random_state=seed)


IMPUTERS = {
    "EnergyImputer": energy,
    "mean": lambda frame, seed: one_hot(SimpleImputer(), frame),
    "KNNImputer": lambda frame, seed: one_hot(KNNImputer(), frame),
    "IterativeImputer": lambda frame, seed: one_hot(IterativeImputer(random_state=seed), frame),
    "IterativeImputer (trees)": lambda frame, seed: one_hot(trees(seed), frame),
}


def read(path):
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            X = arrays["X"]
            return pd.DataFrame(X.astype(float), columns=[f"x{j}" for j in range(X.shape[1])])
    return pd.read_csv(path)


def errors(truth, filled, removed):
    """Error of each column: relative root mean square, or the rate of wrong categories."""
    found = []
    for j, name in enumerate(truth):
        where = removed[:, j]
        if not where.any():
            continue
        if pd.api.types.is_numeric_dtype(truth[name]):
            scale = truth[name].std() or 1.0
            gap = (np.asarray(filled[name], float) - truth[name].to_numpy(float))[where]
            found.append(np.sqrt(np.mean(gap**2)) / scale)
        else:
            found.append(np.mean(np.asarray(filled[name])[where] != truth[name].to_numpy()[where]))
    return float(np.mean(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders of tables")
    parser.add_argument("--quick", action="store_true", help="bundled data, brief fits")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.1, 0.3, 0.5])
    parser.add_argument("--only", nargs="*", default=list(IMPUTERS), help="imputers to run")
    parser.add_argument("--output", type=Path, default=OUTPUT / "imputation.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    files = sorted(f for d in args.data for p in ("*.csv", "*.csv.gz", "*.npz") for f in d.glob(p))
    tables = {f.name.split(".")[0]: (lambda f=f: read(f)) for f in files}
    if not tables:
        tables["diabetes"] = lambda: load_diabetes(as_frame=True).data
    rates = args.rates[:1] if args.quick else args.rates
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    done = {(r["table"], r["rate"], r["model"]): r for r in map(json.loads, lines)}
    for name, load in tables.items():
        truth = load()
        if len(truth) > MAX_ROWS:
            truth = truth.sample(MAX_ROWS, random_state=args.seed).reset_index(drop=True)
        present = truth.notna().to_numpy()
        for rate in rates:
            rng = np.random.RandomState(args.seed)
            removed = (rng.rand(*truth.shape) < rate) & present
            frame = truth.mask(removed)
            for model in args.only:
                if (name, rate, model) in done:
                    continue
                params = {"max_iter": 3} if args.quick and model == "EnergyImputer" else {}
                start = perf_counter()
                filled = IMPUTERS[model](frame, args.seed, **params)
                result = {
                    "table": name,
                    "rate": rate,
                    "model": model,
                    "error": errors(truth, filled, removed),
                    "seconds": perf_counter() - start,
                }
                done[name, rate, model] = result
                with args.output.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print("{table:16} {rate} {model:26} {error:.3f} {seconds:6.1f} s".format(**result))
    rows, ranks = [], []
    for name in tables:
        for rate in rates:
            cells = [done.get((name, rate, m)) for m in args.only]
            rows.append([name, rate, *[f"{r['error']:.3f}" if r else "" for r in cells]])
            if all(cells):
                ranks.append(rankdata([r["error"] for r in cells]))
    if ranks:
        rows.append(["mean rank", "", *[f"{r:.2f}" for r in np.mean(ranks, axis=0)]])
    print()
    print(markdown(["table", "removed", *args.only], rows))


if __name__ == "__main__":
    main()
