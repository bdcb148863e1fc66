"""Fit: compare held-out log-likelihood and outlier detection of density estimators.

    python examples/benchmarks/fit.py --data FOLDER        # npz files with X and y (1 = outlier)
    python examples/benchmarks/fit.py --quick              # two small sets, seconds
    python examples/benchmarks/fit.py --sets "toy:*" --only EnergyVAE GaussianMixture

likelihood: mean log-likelihood of held-out rows in nats, with the standard error over rows.
outliers: ROC-AUC of `score_samples` for the labelled outliers after fitting inliers only.

EnergyVAE is untuned. Held-out rows of the training part choose the parameters of the mixtures and
the kernel density, and stop the flows and pythae's models. Every result is appended to a file
immediately: an interrupted run resumes, and estimators and sets can be added later. A table in
markdown and a plot are made from that file. Estimators that are not installed are skipped with a
message. `density_sets.py` defines the data sets and their splits.
"""

import argparse
import json
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import process_time

import numpy as np
import torch
from density_peers import PredictiveBayesianMixture, PythaeVAE, ZukoFlow
from density_sets import find_sets, likelihood_split, outlier_split
from mixed_peers import ContinuousDensity, spflow_density, vine_density
from scipy.stats import rankdata
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from tables import markdown, rst
from threadpoolctl import threadpool_limits

from skevae import EnergyEnsemble, EnergyVAE, GaussianBernoulliRBMPrior

OUTPUT = Path(__file__).resolve().parents[1] / "output"


@dataclass(frozen=True)
class Effort:
    """Amount of work of a run; `--quick` only checks that everything works."""

    max_rows: int | None = None  # None: as the data set has it
    # The full benchmark leaves all of these at their defaults.
    energy_vae: dict = field(default_factory=dict)
    rbm: dict = field(default_factory=dict)
    network: dict = field(default_factory=dict)
    n_components: tuple = (1, 2, 5, 10, 20, 50, 100, 200)
    bandwidths: tuple = tuple(np.geomspace(0.05, 2, 20))


QUICK = Effort(
    max_rows=200,
    energy_vae={"max_iter": 3, "n_score_draws": 50},
    rbm={"max_iter": 3},
    network={"max_epochs": 3},
    n_components=(1, 2),
    bandwidths=(0.2, 0.5, 1.0),
)
QUICK_SETS = ("sklearn:iris", "sklearn:breast_cancer")


def search(estimator, grid, n_rows):
    """Choose parameters on held-out fifths of the training rows, then refit on all of them."""
    # One split of a small set is a matter of luck.
    splits = ShuffleSplit(5 if n_rows < 1000 else 1, test_size=0.2, random_state=0)
    return GridSearchCV(estimator, grid, cv=splits, error_score=-np.inf)


def mixture(effort, seed, n_rows, covariance_type):
    estimator = GaussianMixture(
        covariance_type=covariance_type, reg_covar=1e-4, max_iter=500, random_state=seed
    )
    sizes = [k for k in effort.n_components if 2 * k <= n_rows]
    return search(estimator, {"n_components": sizes}, n_rows)


def bayesian_mixture(effort, seed, n_rows):
    return PredictiveBayesianMixture(
        n_components=min(50, n_rows // 2), reg_covar=1e-4, max_iter=500, random_state=seed
    )


def kernel_density(effort, seed, n_rows):
    return search(KernelDensity(), {"bandwidth": effort.bandwidths}, n_rows)


def energy_vae(effort, seed, n_rows, **parameters):
    return EnergyVAE(random_state=seed, **parameters, **effort.energy_vae)


def energy_ensemble(effort, seed, n_rows):
    return EnergyEnsemble(EnergyVAE(**effort.energy_vae), random_state=seed)


def energy_stack(effort, seed, n_rows):
    kinds = [EnergyVAE(network=network, **effort.energy_vae) for network in ("mlp", "densenet")]
    return EnergyEnsemble(kinds, stacking=True, random_state=seed)


def rbm(effort, seed, n_rows):
    return GaussianBernoulliRBMPrior(random_state=seed, **effort.rbm)


def flow(effort, seed, n_rows, name, **parameters):
    return ZukoFlow(name, random_state=seed, **parameters, **effort.network)


def table_density(effort, seed, n_rows, density):
    return ContinuousDensity(density, random_state=seed)


def pythae(effort, seed, n_rows, model):
    return PythaeVAE(model, random_state=seed, **effort.network)


# Name -> function (effort, seed, number of training rows) -> unfitted estimator.
ESTIMATORS = {
    "EnergyVAE": energy_vae,
    "EnergyEnsemble": energy_ensemble,
    "EnergyEnsemble (stacked)": energy_stack,
    "EnergyVAE (gaussian)": partial(energy_vae, likelihood="gaussian"),
    "EnergyVAE (normal)": partial(energy_vae, prior="normal"),
    "GB-RBM": rbm,
    "GaussianMixture": partial(mixture, covariance_type="full"),
    "GaussianMixture (diag)": partial(mixture, covariance_type="diag"),
    "BayesianMixture": bayesian_mixture,
    "KernelDensity": kernel_density,
    "NSF": partial(flow, name="NSF"),
    "NSF (10)": partial(flow, name="NSF", transforms=10),
    "MAF": partial(flow, name="MAF"),
    "VineDensity": partial(table_density, density=vine_density),
    "SPFlow": partial(table_density, density=spflow_density),
    "pythae VAE": partial(pythae, model="VAE"),
    "pythae IWAE": partial(pythae, model="IWAE"),
    "pythae VAMP": partial(pythae, model="VAMP"),
    "IsolationForest": lambda effort, seed, n_rows: IsolationForest(random_state=seed),
    "LocalOutlierFactor": lambda effort, seed, n_rows: LocalOutlierFactor(novelty=True),
}
# Colours of Okabe & Ito, which colour-blind readers tell apart; the symbol says it a second time.
STYLES = {
    "EnergyVAE": ("#0072B2", "o"),
    "EnergyEnsemble": ("#0072B2", "*"),
    "EnergyEnsemble (stacked)": ("#56B4E9", "*"),
    "EnergyVAE (gaussian)": ("#56B4E9", "o"),
    "EnergyVAE (normal)": ("#E69F00", "o"),
    "GB-RBM": ("#CC79A7", "o"),
    "GaussianMixture": ("0.35", "s"),
    "GaussianMixture (diag)": ("0.35", "D"),
    "BayesianMixture": ("0.35", "p"),
    "KernelDensity": ("0.35", "^"),
    "NSF": ("#009E73", "<"),
    "NSF (10)": ("#009E73", "4"),
    "MAF": ("#009E73", ">"),
    "VineDensity": ("#F0E442", "P"),
    "SPFlow": ("#F0E442", "X"),
    "pythae VAE": ("#D55E00", "v"),
    "pythae IWAE": ("#D55E00", "x"),
    "pythae VAMP": ("#D55E00", "+"),
    "IsolationForest": ("black", "*"),
    "LocalOutlierFactor": ("black", "h"),
}
OURS = (
    "EnergyVAE",
    "EnergyEnsemble",
    "EnergyEnsemble (stacked)",
    "EnergyVAE (gaussian)",
    "EnergyVAE (normal)",
    "GB-RBM",
)
NO_DENSITY = ("IsolationForest", "LocalOutlierFactor")
REQUIRES = {
    "NSF": "zuko",
    "NSF (10)": "zuko",
    "MAF": "zuko",
    "VineDensity": "pyvinecopulib",
    "SPFlow": "spflow",
    **{name: "pythae" for name in ESTIMATORS if name.startswith("pythae")},
}


def measure_likelihood(estimator, split):
    """Log-density of every test row, in nats."""
    scores = estimator.score_samples(split.test) + split.log_jacobian
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.sum(~np.isfinite(scores))} test rows have no finite log-density")
    return {
        "value": scores.mean(),
        "standard_error": scores.std(ddof=1) / np.sqrt(len(scores)),
        **({} if split.truth is None else {"truth": split.truth.mean()}),
        "scores": [round(score, 3) for score in scores.tolist()],
    }


def measure_outliers(estimator, split):
    """Probability that an outlier scores below an inlier."""
    return {"value": roc_auc_score(split.outlier, -estimator.score_samples(split.test))}


@dataclass(frozen=True)
class Task:
    """One question to the estimators: how rows are split, what is measured, how it is shown."""

    title: str
    split: object
    measure: object
    excluded: tuple
    decimals: int
    scale: object  # how the picture's axis is drawn


def nats_axis(axis):
    """Linear within a nat, logarithmic beyond: a hundredth and a hundred nats both show."""
    axis.set_xscale("symlog", linthresh=1, linscale=1.5)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:+g}" if x else "0")
    axis.set_xlabel("nats a row above the best peer (bar: 2 standard errors of the difference)")


def auc_axis(axis):
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:+.2g}" if x else "0")
    axis.set_xlabel("ROC-AUC above the best peer")


TASKS = {
    "likelihood": Task(
        "Held-out log-likelihood, nats a row",
        likelihood_split,
        measure_likelihood,
        NO_DENSITY,
        2,
        nats_axis,
    ),
    "outliers": Task(
        "Outlier detection, ROC-AUC, fitted on inliers",
        outlier_split,
        measure_outliers,
        (),
        3,
        auc_axis,
    ),
}


class Results:
    """Lines of JSON on disk, one for each (task, set, estimator, seed); the last one counts."""

    def __init__(self, file):
        self.file = Path(file)
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.rows = {}
        for row in map(json.loads, lines):
            self.rows[self.key(**row)] = row

    @staticmethod
    def key(task, set, estimator, seed, **_):
        return task, set, estimator, seed

    def done(self, *key):
        return "value" in self.rows.get(key, {})  # failures are tried again

    def append(self, row):
        self.rows[self.key(**row)] = row
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def chosen(estimator):
    """What a fit chose by itself."""
    found = dict(getattr(estimator, "best_params_", {}))
    for name in ("n_iter_", "scale_"):
        if np.ndim(value := getattr(estimator, name, None)) == 0 and value is not None:
            found[name] = value
    return {
        name: round(float(value), 4) if isinstance(value, float) else value
        for name, value in found.items()
    }


def run(task, name, split, effort, seed):
    """Fit and measure one estimator; a failure becomes a row too.

    Seconds are those of the processor, over all threads: other programs do not count, but child
    processes do not, either.
    """
    start = process_time()
    try:
        estimator = ESTIMATORS[name](effort, seed, len(split.train)).fit(split.train)
        fitted = process_time()
        measured = TASKS[task].measure(estimator, split)
    except Exception as error:  # whatever it is, the others go on and the table shows it
        return {"error": f"{type(error).__name__}: {error}", "fit_seconds": process_time() - start}
    scored = process_time()
    if getattr(estimator, "fits_when_scored", False):
        fitted = scored
    return {
        "fit_seconds": round(fitted - start, 2),
        "score_seconds": round(scored - fitted, 2),
        "chosen": chosen(estimator),
        **measured,
    }


def run_all(results, sets, names, tasks, seeds, effort, again):
    """Fill in the results that are missing, one estimator after the other."""
    for name in names:
        for set_name, load in sets.items():
            for task in tasks:
                for seed in seeds:
                    if name in TASKS[task].excluded:
                        continue
                    if results.done(task, set_name, name, seed) and not again:
                        continue
                    split = TASKS[task].split(load, seed, effort.max_rows)
                    if split is None:
                        continue
                    row = {"task": task, "set": set_name, "estimator": name, "seed": seed}
                    row |= run(task, name, split, effort, seed)
                    results.append(row)
                    value = row.get("error") or f"{row['value']:.3f} {row['chosen']}"
                    print(
                        f"{task:10} {set_name:22} {name:22} seed {seed} "
                        f"{row['fit_seconds']:7.1f} s  {value}",
                        flush=True,
                    )


class Summary:
    """One task's results, averaged over seeds.

    Attributes
    ----------
    sets, names : list of str
        Sets and estimators that have a result, in the order of the run.
    values : ndarray of shape (n_sets, n_names)
        nan where there is no result yet, -inf where the estimator failed.
    errors : dict of (set, name) to str
    """

    def __init__(self, task, results, patterns, names):
        self.task = TASKS[task]
        cells = defaultdict(list)
        for (row_task, set_name, name, _), row in results.rows.items():
            if row_task == task and name in names and selected(set_name, patterns):
                cells[set_name, name].append(row)
        self.cells = dict(cells)
        self.sets = list(dict.fromkeys(set_name for set_name, _ in cells))
        self.names = [name for name in names if any(name == other for _, other in cells)]
        self.values = np.full((len(self.sets), len(self.names)), np.nan)
        self.errors = {}
        for (set_name, name), rows in cells.items():
            failures = [row["error"] for row in rows if "error" in row]
            if failures:
                self.errors[set_name, name] = failures[0]
            self.values[self.sets.index(set_name), self.names.index(name)] = (
                -np.inf if failures else np.mean([row["value"] for row in rows])
            )

    @property
    def complete(self):
        """Sets on which every estimator has been tried."""
        return ~np.isnan(self.values).any(axis=1)

    def standard_error(self, set_name, name):
        """Over test rows; seeds count as independent."""
        errors = [row.get("standard_error", np.nan) for row in self.cells[set_name, name]]
        return np.sqrt(np.sum(np.square(errors))) / len(errors)

    def median_seconds(self, name):
        """To fit an estimator, over the sets on which every estimator has been tried.

        As text, which is empty if the time is not known for all of them.
        """
        sets = [self.sets[row] for row in np.flatnonzero(self.complete)]
        rows = [row for where in sets for row in self.cells[where, name]]
        seconds = [row["fit_seconds"] for row in rows if "fit_seconds" in row]
        return f"{np.median(seconds):.1f}" if len(seconds) == len(rows) else ""

    def difference_error(self, set_name, name, other):
        """Standard error of the difference of two estimators, which share their test rows."""
        rows = [{row["seed"]: row for row in self.cells[set_name, n]} for n in (name, other)]
        variances = []
        for seed in rows[0].keys() & rows[1].keys():
            pair = [row[seed].get("scores") for row in rows]
            if None in pair:
                return np.nan
            variances.append(np.var(np.subtract(*pair), ddof=1) / len(pair[0]))
        return np.sqrt(np.sum(variances)) / len(variances) if variances else np.nan

    def table(self):
        """Header and rows: the best of a row bold, the second in italics."""
        decimals = self.task.decimals
        truth = {
            set_name: np.mean([row["truth"] for row in rows])
            for (set_name, _), rows in self.cells.items()
            if "truth" in rows[0]
        }
        header = ["data set", *self.names, *(["best possible"] if truth else [])]
        lines = []
        for set_name, values in zip(self.sets, self.values, strict=True):
            order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
            marks = {order[0]: "**", **({order[1]: "*"} if len(order) > 1 else {})}
            line = [set_name]
            for column, (name, value) in enumerate(zip(self.names, values, strict=True)):
                if not np.isfinite(value):
                    line.append("failed" if np.isneginf(value) else "")
                    continue
                mark = marks.get(column, "")
                error = self.standard_error(set_name, name)
                shown = "" if np.isnan(error) else f" ({error:.{decimals}f})"
                line.append(f"{mark}{value:.{decimals}f}{mark}{shown}")
            if truth:
                line.append(f"{truth[set_name]:.{decimals}f}" if set_name in truth else "")
            lines.append(line)
        ranks = rankdata(-self.values[self.complete], axis=1)
        if len(ranks):
            blank = [""] if truth else []
            means = self.values[self.complete].mean(axis=0)
            lines.append([f"mean (of {len(ranks)})", *(f"{x:.{decimals}f}" for x in means), *blank])
            means = [f"{rank:.2f}" for rank in ranks.mean(axis=0)]
            firsts = [str(count) for count in (ranks < 1.5).sum(axis=0)]
            lines.append([f"mean rank (of {len(ranks)})", *means, *blank])
            lines.append([f"first (of {len(ranks)})", *firsts, *blank])
            lines.append(["median seconds to fit", *map(self.median_seconds, self.names), *blank])
        return header, lines

    def failures(self):
        """Lines of a list."""
        return "\n".join(
            f"- {name} on {where}: {why}" for (where, name), why in self.errors.items()
        )

    def picture(self, file):
        """Difference to the best peer: one line a set, one symbol an estimator."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        peers = [column for column, name in enumerate(self.names) if name not in OURS]
        shown = [row for row, values in enumerate(self.values) if np.isfinite(values[peers]).any()]
        figure, axis = plt.subplots(figsize=(9, 1.8 + 0.34 * len(shown)), layout="constrained")
        for line, row in enumerate(shown):
            values = np.where(np.isfinite(self.values[row]), self.values[row], np.nan)
            best = peers[np.nanargmax(values[peers])]
            for column, name in enumerate(self.names):
                color, marker = STYLES[name]
                ours = name in OURS
                difference = values[column] - values[best]
                axis.plot(
                    difference,
                    line,
                    color=color,
                    marker=marker,
                    markersize=8 if ours else 6,
                    markerfacecolor=color if ours else "none",
                    markeredgecolor="white" if ours else color,
                    linestyle="none",
                    label=name if line == 0 else None,
                    zorder=4 if ours else 2,
                )
                if name == "EnergyVAE":  # bars of all would hide one another
                    error = self.difference_error(self.sets[row], name, self.names[best])
                    ends = difference - 2 * error, difference + 2 * error
                    axis.plot(ends, (line, line), color=color, alpha=0.5, linewidth=3, zorder=3)
        axis.axvline(0, color="black", linewidth=0.8, zorder=1)
        axis.set_yticks(range(len(shown)), [self.sets[row] for row in shown])
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.grid(axis="y", color="0.9")
        axis.set_title(self.task.title, loc="left")
        self.task.scale(axis)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(file, dpi=150)
        plt.close(figure)


def selected(name, patterns):
    return any(fnmatch(name, pattern) for pattern in patterns)


def write_report(results, patterns, names, tasks, folder, docs):
    """Print the tables; write them, and a picture of each task, into the folder.

    What the documentation includes goes to the folder ``docs`` as well, if there is one.
    """
    text = []
    for task in tasks:
        summary = Summary(task, results, patterns, names)
        if not summary.sets:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        table, failures = summary.table(), summary.failures()
        text.append(f"### {summary.task.title}\n\n{markdown(*table)}\n\n{failures}".rstrip())
        if docs:
            docs.mkdir(parents=True, exist_ok=True)
            (docs / f"fit-{task}.rst").write_text(f"{rst(*table)}\n\n{failures}".rstrip() + "\n")
        if not set(summary.names) <= set(OURS) and find_spec("matplotlib"):
            for place in filter(None, [folder, docs]):
                summary.picture(place / f"fit-{task}.png")
    (folder / "table.md").write_text("\n\n".join(text) + "\n")
    print("\n" + "\n\n".join(text) + f"\n\nTable and pictures: {folder}")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", metavar="FOLDER", help="npz files with X and y (1 = outlier)")
    parser.add_argument("--mnist", metavar="FILE", help="npz file, or 'openml' to download")
    parser.add_argument("--sets", nargs="+", metavar="PATTERN", help="such as 'toy:*'")
    parser.add_argument("--only", nargs="+", choices=ESTIMATORS, metavar="NAME", help="estimators")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of splits and fits")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="two small sets, a few epochs")
    parser.add_argument("--again", action="store_true", help="measure anew what has a result")
    parser.add_argument("--report", action="store_true", help="only show what has been measured")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="results, table and pictures")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="where they go as well")
    return parser, parser.parse_args()


def main():
    parser, options = parse()
    output = options.output or OUTPUT / ("fit-quick" if options.quick else "fit")
    results = Results(output / "results.jsonl")
    patterns = options.sets or (QUICK_SETS if options.quick else ["*"])
    names = options.only or list(ESTIMATORS)
    if not options.report:
        sets = {
            name: load
            for name, load in find_sets(options.data, options.mnist).items()
            if selected(name, patterns)
        }
        if not sets:
            parser.error(f"no data set matches --sets {' '.join(patterns)}")
        for package in sorted(set(REQUIRES.values())):
            absent = [name for name in names if REQUIRES.get(name) == package]
            if absent and not find_spec(package):
                names = [name for name in names if name not in absent]
                print(f"Left out, as {package} is not installed: {', '.join(absent)}")
        torch.set_num_threads(options.threads)
        warnings.simplefilter("ignore", ConvergenceWarning)
        with threadpool_limits(options.threads):
            effort = QUICK if options.quick else Effort()
            run_all(results, sets, names, options.tasks, options.seeds, effort, options.again)
    write_report(results, patterns, options.only or ESTIMATORS, options.tasks, output, options.docs)


if __name__ == "__main__":
    main()
