"""Imputation: errors of imputed entries that were removed from tables.

    python examples/benchmarks/imputation.py --data FOLDER [FOLDER ...]   # csv tables, npz arrays
    python examples/benchmarks/imputation.py --quick                      # bundled data, seconds

Entries are removed completely at random (mcar), or at random given a column of the table that stays
complete (mar): the higher its value, the more likely are missing entries in the rest of the row.

- rmse: of numbers, in standard deviations of their column; the mean over columns.
- wrong: the rate of wrong categories; the mean over columns.
- log_score: ln p(removed entries | observed entries) per removed entry, in nats. Only a density has
  it. log_score_alone is that of independent columns: kernel densities and frequencies.

For imputers that only accept numbers, categories are one-hot encoded, and the largest value is the
imputed category. Results are appended to a file immediately; an interrupted run resumes.
"""

import argparse
import json
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from imputation_peers import PEERS
from mixed import independent_columns
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.datasets import load_diabetes
from tables import markdown, rst

from skevae import EnergyImputer, EnergyVAE
from skevae.estimators.columns import Columns

OUTPUT = Path(__file__).resolve().parents[1] / "output"
MEASURES = ("rmse", "wrong")
# Of the standardised column, in the logistic of holes that are at random given that column.
SLOPE = 2.0


def read(path):
    """A table whose numbers are floats and whose other columns are categories."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            X = arrays["X"]
        return pd.DataFrame(X.astype(float), columns=[f"x{j}" for j in range(X.shape[1])])
    frame = pd.read_csv(path)
    numbers = {name: pd.api.types.is_numeric_dtype(frame[name]) for name in frame}
    return frame.astype({name: float if n else "category" for name, n in numbers.items()})


def completely_at_random(truth, rate, rng):
    return rng.rand(*truth.shape) < rate


def at_random_given_a_column(truth, rate, rng):
    """Holes by a logistic of one column, whose own entries stay; the mean over rows is the rate."""
    complete = np.flatnonzero(truth.notna().all() & (truth.nunique() > 1))
    driver = rng.choice(complete)
    column = truth.iloc[:, driver]
    codes = column if pd.api.types.is_numeric_dtype(column) else column.cat.codes
    score = rankdata(codes)
    score = SLOPE * (score - score.mean()) / score.std()
    shift = brentq(lambda shift: expit(score + shift).mean() - rate, -30, 30)
    removed = rng.rand(*truth.shape) < expit(score + shift)[:, None]
    removed[:, driver] = False
    return removed


MECHANISMS = {"mcar": completely_at_random, "mar": at_random_given_a_column}


def errors(truth, filled, removed):
    """Mean over columns of the root mean square error of numbers, and of the wrong categories."""
    found = {measure: [] for measure in MEASURES}
    for j, name in enumerate(truth):
        where = removed[:, j]
        if not where.any():
            continue
        values, right = np.asarray(filled[name])[where], truth[name].to_numpy()[where]
        if pd.api.types.is_numeric_dtype(truth[name]):
            gap = (values.astype(float) - right) / (truth[name].std() or 1.0)
            found["rmse"].append(np.sqrt(np.mean(gap**2)))
        else:
            found["wrong"].append(np.mean(values != right))
    return {measure: float(np.mean(all_)) if all_ else None for measure, all_ in found.items()}


def energy_imputer(truth, frame, removed, seed, **params):
    """Filled table and log-scores; the time is that of fit and imputation."""
    start = perf_counter()
    estimator = EnergyVAE(mask_rate=0.2, random_state=seed, **params)
    imputer = EnergyImputer(estimator).fit(frame)
    result = {"filled": imputer.transform(frame), "seconds": perf_counter() - start}
    density = imputer.estimator_
    gain = density.score_samples(truth) - density.score_samples(frame)
    columns = Columns(frame, "from_dtype", "from_dtype", "error")
    alone = independent_columns(columns, frame, truth.where(removed), seed)
    result["log_score"] = float(gain.sum() / removed.sum())
    result["log_score_alone"] = float(alone.sum() / removed.sum())
    return result


def peer(name):
    def impute(truth, frame, removed, seed):
        start = perf_counter()
        return {"filled": PEERS[name](frame, seed), "seconds": perf_counter() - start}

    return impute


IMPUTERS = {"EnergyImputer": energy_imputer, **{name: peer(name) for name in PEERS}}


def mean_ranks(done, tables, case, names, measure):
    """Over the tables that all imputers have filled; None without any."""
    cells = [
        [done.get((table, *case, name), {}).get(measure) for name in names] for table in tables
    ]
    complete = [row for row in cells if None not in row]
    if not complete:
        return None
    return np.mean([rankdata(row) for row in complete], axis=0), np.mean(complete, axis=0)


def summary(done, tables, cases, names):
    """Header and rows: for each kind of holes and measure, mean error and mean rank."""
    rows = []
    for case in cases:
        for measure in MEASURES:
            found = mean_ranks(done, tables, case, names, measure)
            if found is not None:
                cells = [f"{m:.3f} ({r:.2f})" for r, m in zip(*found, strict=True)]
                rows.append([f"{case[0]} {case[1]:.0%}", measure, *cells])
    seconds = [
        [r["seconds"] for key, r in done.items() if key[-1] == n and key[0] in tables]
        for n in names
    ]
    rows.append(["median seconds", "", *[f"{np.median(s):.2f}" if s else "" for s in seconds]])
    return ["removed", "measure (mean rank)", *names], rows


def log_scores(done, tables, cases):
    """Header and rows: log-score of each table and kind of holes (that of independent columns)."""
    rows = []
    for table in tables:
        found = [done.get((table, *case, "EnergyImputer"), {}) for case in cases]
        if any(found):
            scores = [(r.get("log_score"), r.get("log_score_alone")) for r in found]
            cells = ["" if a is None else f"{a:.2f} ({b:.2f})" for a, b in scores]
            rows.append([table, *cells])
    return ["table", *[f"{mechanism} {rate:.0%}" for mechanism, rate in cases]], rows


def measure(truth, case, names, seed, quick):
    """Results of the imputers on one table with one kind of holes, one by one."""
    mechanism, rate = case
    rng = np.random.RandomState(seed)
    removed = MECHANISMS[mechanism](truth, rate, rng) & truth.notna().to_numpy()
    frame = truth.mask(removed)
    for name in names:
        params = {"max_iter": 3} if quick and name == "EnergyImputer" else {}
        try:
            result = IMPUTERS[name](truth, frame, removed, seed, **params)
        except ImportError as error:
            print(f"{name} skipped: {error}")
            continue
        yield name, {**errors(truth, result.pop("filled"), removed), **result}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders of tables")
    parser.add_argument("--tables", nargs="*", help="names of tables; all by default")
    parser.add_argument("--quick", action="store_true", help="bundled data, brief fits")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.3, 0.1, 0.5])
    parser.add_argument("--mechanisms", nargs="*", default=list(MECHANISMS), choices=MECHANISMS)
    parser.add_argument("--rows", type=int, default=2000, help="rows of a table, at most")
    parser.add_argument("--only", nargs="*", default=list(IMPUTERS), help="imputers to run")
    parser.add_argument("--output", type=Path, default=OUTPUT / "imputation.jsonl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rst", action="store_true", help="print tables for the documentation")
    return parser.parse_args()


def main():
    args = parse()
    warnings.simplefilter("ignore")
    files = sorted(f for d in args.data for p in ("*.csv", "*.csv.gz", "*.npz") for f in d.glob(p))
    tables = {f.name.split(".")[0]: (lambda f=f: read(f)) for f in files}
    if args.tables:
        tables = {name: tables[name] for name in args.tables}
    if not tables:
        tables["diabetes"] = lambda: load_diabetes(as_frame=True).data
    rates = args.rates[:1] if args.quick else args.rates
    cases = [(mechanism, rate) for rate in rates for mechanism in args.mechanisms]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    keys = ("table", "mechanism", "rate", "model")
    done = {tuple(r[key] for key in keys): r for r in map(json.loads, lines)}
    for case in cases:
        for table, load in tables.items():
            truth = load()
            if len(truth) > args.rows:
                truth = truth.sample(args.rows, random_state=args.seed).reset_index(drop=True)
            names = [name for name in args.only if (table, *case, name) not in done]
            for name, result in measure(truth, case, names, args.seed, args.quick):
                key = (table, *case, name)
                done[key] = result = {**dict(zip(keys, key, strict=True)), **result}
                with args.output.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(result, flush=True)
    layout = rst if args.rst else markdown
    print(layout(*summary(done, tables, cases, args.only)))
    print(layout(*log_scores(done, tables, cases)))


if __name__ == "__main__":
    main()
