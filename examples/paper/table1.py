"""Table 1 of "Variational Inference with Unnormalized Priors": densities in the plane.

    python examples/paper/table1.py --quick     # seconds, shows that everything works
    python examples/paper/table1.py             # 4,000 training rows of each set
    python examples/paper/table1.py --full      # 20,000 training rows of each set

VAE, EVAE and ECVVAE are the paper's: a DenseNet of four layers of 16, 16 latents, an RBM of 32
hidden units, trained by eq. 3 and reported by eq. 5. Each reported value is compared with the
log-likelihood of the model, with the exact ln Z. It is the value of `score`, or that of draws from
the prior alone if it is higher: both are lower bounds in expectation, and after training by eq. 3,
encoders can be such poor proposals that `score` is many nats too low. The last three VAEs are
trained on the exact ln Z: one with the paper's network, and two with this package's defaults, the
second of which has the doubly reparametrised gradient. The kernel density, with a bandwidth chosen
by validation, is there for reference.

The true density is known: no density has a higher mean log-likelihood than minus the entropy, so
higher reported values are impossible. The last column is the mean of ln p(x) - ln model(x) over the
test rows, the Kullback-Leibler divergence from the truth.

Each result is appended to a file immediately, and each fit has checkpoints, so an interrupted run
resumes. The table (markdown and reStructuredText) and a plot are made from the file.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from report import OUTPUT, Results, mean_and_error, publish, pyplot, with_error, write_tables
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.neighbors import KernelDensity

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.datasets import TOY_DENSITIES, toy_density


@dataclass(frozen=True)
class Effort:
    """Amount of work of a run."""

    n_train: int
    n_test: int
    n_epochs: int  # of the paper's models, which have no early stopping
    n_draws: int  # of an estimate of a log-likelihood
    n_pixels: int  # of a side of a picture
    n_sampled: int  # rows of which a picture is the histogram
    sets: tuple = tuple(TOY_DENSITIES)
    ours: tuple = ()  # parameters of EnergyVAE other than its defaults


EFFORTS = {
    "quick": Effort(300, 100, 2, 50, 20, 5_000, ("8gaussians", "potential1"), (("max_iter", 2),)),
    "reduced": Effort(4_000, 2_000, 200, 1000, 80, 400_000),
    "full": Effort(20_000, 5_000, 75, 1000, 100, 1_000_000),
}

PAPER = {
    "n_components": 16,
    "hidden_layer_sizes": (16, 16, 16, 16),
    "network": "densenet",
    "likelihood": "gaussian",
    "objective": "elbo",
    "n_draws": 8,
    "early_stopping": False,  # it would watch the right bound, and stop what eq. 3 does
}
EQ_3 = {"prior": GaussianBernoulliRBMPrior(32), "partition": "posterior"}
MODELS = {
    "VAE": {**PAPER, "prior": "normal", "posterior": "diagonal"},
    "EVAE": {**PAPER, **EQ_3, "posterior": "diagonal"},
    "ECVVAE": {**PAPER, **EQ_3, "posterior": "fixed"},
    "ECVVAE, exact ln Z": {
        **PAPER,
        "prior": GaussianBernoulliRBMPrior(24),
        "partition": "exact",
        "posterior": "fixed",
    },
    "EnergyVAE": {"partition": "exact"},
    "EnergyVAE, iwae-dreg": {"partition": "exact", "objective": "iwae-dreg"},
}
KERNEL = "KernelDensity"
SHOWN = ("VAE", "EVAE", "ECVVAE", "EnergyVAE")  # in the picture
REACH = 4.5  # of the picture, to either side
SAMPLED_AT_ONCE = 20_000


def make_model(name, effort, seed, folder):
    """Build an unfitted model."""
    if name == KERNEL:
        split = ShuffleSplit(1, test_size=0.2, random_state=seed)
        return GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.03, 0.6, 14)}, cv=split)
    parameters = dict(MODELS[name])
    if "early_stopping" in parameters:
        parameters["max_iter"] = effort.n_epochs
    else:
        parameters |= dict(effort.ours)
    return EnergyVAE(
        **parameters,
        n_score_draws=effort.n_draws,
        checkpoint_dir=folder / "checkpoints",
        random_state=seed,
    )


def training_rows(set_name, effort, seed):
    return toy_density(set_name).sample(effort.n_train, random_state=seed)


def histogram_file(folder, set_name, name):
    return folder / "histograms" / f"{set_name}-{name}.npy"


def save_histogram(set_name, name, effort, seed, folder):
    """Keep the density of a fitted model for the picture, as that of its samples.

    Importance-sampled densities of models that were trained by eq. 3 are too noisy to look at.
    """
    # It was fitted before: its checkpoint is at hand.
    model = make_model(name, effort, seed, folder).fit(training_rows(set_name, effort, seed))
    edges = np.linspace(-REACH, REACH, effort.n_pixels + 1)
    counts = np.zeros((effort.n_pixels, effort.n_pixels))
    for part, start in enumerate(range(0, effort.n_sampled, SAMPLED_AT_ONCE)):
        n = min(SAMPLED_AT_ONCE, effort.n_sampled - start)
        x, y = model.sample(n, random_state=part).T
        counts += np.histogram2d(y, x, bins=(edges, edges))[0]
    file = histogram_file(folder, set_name, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, counts / (effort.n_sampled * (edges[1] - edges[0]) ** 2))


def decoder_scales(model, X):
    """Standard deviations of a decoder that has one for each feature, on the scale of X."""
    likelihood, n = model.module_.likelihood, X.shape[1]
    with torch.no_grad():
        # ln N(0 | 0, s) - ln N(e_i | 0, s) = 1 / (2 s_i^2)
        at_mean = likelihood.log_density(torch.zeros(1, n), torch.zeros(1, n))
        fall = at_mean - likelihood.log_density(torch.eye(n), torch.zeros(n, n))
    return X.std(axis=0) / np.sqrt(2 * fall.double().numpy())


def scores_from_prior(model, X, X_test, n_samples):
    """Log-likelihood by draws of the prior alone: the mean of p(x | z) over z ~ p(z).

    It is a lower bound in expectation, as `score_samples` is, but it does not need good posteriors,
    and in the plane enough draws come near to every row. The mean is a kernel density whose kernels
    are the decoder's.
    """
    scales = decoder_scales(model, X)
    seeds = range(max(1, n_samples // SAMPLED_AT_ONCE))
    n_each = min(n_samples, SAMPLED_AT_ONCE)
    means = np.concatenate(
        [model.inverse_transform(model.prior_.sample(n_each, random_state=s)) for s in seeds]
    )
    kernels = KernelDensity(bandwidth=1.0, rtol=1e-4).fit(means / scales)
    return kernels.score_samples(X_test / scales) - np.log(scales).sum()


def measure(set_name, name, effort, seed, folder):
    """Fit a model to a set and score it."""
    density = toy_density(set_name)
    X = training_rows(set_name, effort, seed)
    X_test = density.sample(effort.n_test, random_state=seed + 1000)
    start = perf_counter()
    model = make_model(name, effort, seed, folder).fit(X)
    seconds = perf_counter() - start
    scores, estimate = model.score_samples(X_test), "importance"
    if MODELS.get(name, {}).get("likelihood") == "gaussian":
        # Both are lower bounds in expectation, so the higher mean is nearer to the truth.
        from_prior = scores_from_prior(model, X, X_test, effort.n_sampled)
        if from_prior.mean() > scores.mean():
            scores, estimate = from_prior, "prior"
    row = {
        "set": set_name,
        "model": name,
        "seed": seed,
        "log_likelihood": mean_and_error(scores),
        "estimate": estimate,
        # Row by row: the error of a difference is much smaller than that of a mean.
        "gap": mean_and_error(density.log_density(X_test) - scores),
        "entropy": density.entropy,
        "fit_seconds": round(seconds, 1),
    }
    if name == KERNEL:
        row["bandwidth"] = float(model.best_params_["bandwidth"])
    else:
        result = model.log_likelihood(X_test, method="self_normalized")
        row["equation_5"] = mean_and_error(result.log_likelihood)
        row["log_partition"] = tuple(model.prior_.log_partition_interval_)
        row["n_iter"] = model.n_iter_
    return row


def is_impossible(row):
    """Whether eq. 5 reports more than any density has, by more than test rows can explain."""
    report = row["equation_5"]
    return report["mean"] > -row["entropy"] + 3 * report["error"]


def table(results, sets, names, seed):
    """Header and rows of what has been measured."""
    header = [
        "density (best possible)",
        "model",
        "what eq. 5 reports",
        "log-likelihood",
        "short of the truth",
    ]
    lines = []
    for set_name in sets:
        rows = [results.get(set=set_name, model=name, seed=seed) for name in names]
        first = f"{set_name} ({-toy_density(set_name).entropy:.3f})"
        for row in filter(None, rows):
            reported = "" if row["model"] == KERNEL else with_error(row["equation_5"], decimals=2)
            if reported and is_impossible(row):
                reported += " (impossible)"
            lines.append(
                [
                    first,
                    row["model"],
                    reported,
                    with_error(row["log_likelihood"]),
                    with_error(row["gap"]),
                ]
            )
            first = ""
    return header, lines


def draw(results, sets, seed, effort, folder):
    """Densities: a row for each set, the truth in the first column."""
    names = [name for name in SHOWN if any(histogram_file(folder, s, name).exists() for s in sets)]
    plt = pyplot()
    figure, axes = plt.subplots(
        len(sets),
        1 + len(names),
        figsize=(2.0 * (1 + len(names)), 2.15 * len(sets) + 0.3),
        layout="constrained",
        squeeze=False,
    )
    edges = np.linspace(-REACH, REACH, effort.n_pixels + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    grid = np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)
    extent = (-REACH, REACH, -REACH, REACH)
    for line, set_name in zip(axes, sets, strict=True):
        density = toy_density(set_name)
        truth = np.exp(density.log_density(grid)).reshape(effort.n_pixels, -1)
        panels = {"truth": truth}
        for name in names:
            saved = histogram_file(folder, set_name, name)
            panels[name] = np.load(saved) if saved.exists() else np.full_like(truth, np.nan)
        for axis, (name, values) in zip(line, panels.items(), strict=True):
            # One scale for a row, set by the truth: what is too peaked is cut off, not hidden.
            axis.imshow(
                values, origin="lower", extent=extent, cmap="magma", vmin=0, vmax=truth.max()
            )
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            row = results.get(set=set_name, model=name, seed=seed)
            if row:
                axis.set_xlabel(
                    f"true {row['log_likelihood']['mean']:.2f}, by eq. 5 "
                    f"{row['equation_5']['mean']:+.2f}",
                    fontsize=8,
                )
        line[0].set_xlabel(f"best possible: {-density.entropy:.2f}", fontsize=8)
        line[0].set_ylabel(set_name)
    for axis, name in zip(axes[0], ["truth", *names], strict=True):
        axis.set_title(name, fontsize=11)
    figure.savefig(folder / "table1.png", dpi=110)
    plt.close(figure)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    for name in ("quick", "full"):
        size.add_argument(f"--{name}", dest="effort", action="store_const", const=name)
    parser.set_defaults(effort="reduced")
    names = [*MODELS, KERNEL]
    parser.add_argument("--sets", nargs="+", choices=TOY_DENSITIES, metavar="NAME")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="MODEL")
    parser.add_argument("--seed", type=int, default=0, help="of data and training")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--report", action="store_true", help="only show what has been measured")
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="where the table goes as well")
    return parser.parse_args()


def main():
    options = parse()
    effort = EFFORTS[options.effort]
    sets = options.sets or effort.sets
    output = options.output or OUTPUT / f"table1-{options.effort}"
    results = Results(output / "results.jsonl", ["set", "model", "seed"])
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    for set_name in sets:
        for name in options.only:
            if options.report:
                continue
            if not results.get(set=set_name, model=name, seed=options.seed):
                row = measure(set_name, name, effort, options.seed, output)
                results.append(row)
                print(
                    f"{set_name:14} {name:20} {with_error(row['log_likelihood'])}  "
                    f"gap {with_error(row['gap'])}  {row['fit_seconds']:.0f} s",
                    flush=True,
                )
            if name in SHOWN and not histogram_file(output, set_name, name).exists():
                save_histogram(set_name, name, effort, options.seed, output)
    measured = [s for s in sets if any(key[0] == s for key in results.rows)]
    if not measured:
        raise SystemExit(f"Nothing has been measured yet in {output}.")
    header, lines = table(results, measured, [*MODELS, KERNEL], options.seed)
    caption = (
        f"{effort.n_train:,} training rows, {effort.n_test:,} test rows, {effort.n_epochs} epochs "
        f"of the paper's models, {effort.n_draws:,} draws of each estimate, seed {options.seed}."
    )
    text = write_tables(output, "table1", caption, header, lines)
    draw(results, measured, options.seed, effort, output)
    publish([output / "table1.rst", output / "table1.png"], options.docs)
    print(f"\n{text}\nTable and picture: {output}")


if __name__ == "__main__":
    main()
