"""Table 2 of "Variational Inference with Unnormalized Priors": binarised MNIST.

    python examples/paper/table2.py --quick                            # digits, seconds
    python examples/paper/table2.py --data binarized_mnist.npz         # a static split
    python examples/paper/table2.py --binarization dynamic --data mnist.npz

Without --data, MNIST is downloaded (and "static" is then one draw of its pixels, not the published
one). The file is described in `skevae.datasets.fetch_binarized_mnist`.

The network is the paper's, 784-256-64. Its headline model, ECVVAE trained by eq. 3, is reported
twice: by eq. 5, as in the paper, and by its likelihood, which is importance-sampled and normalised
with the upper end of an interval for ln Z. Every NLL is therefore an upper bound in expectation,
which is looser if more rows have a Pareto k-hat above 0.7. One component is varied at a time: the
ex-post distribution of the latents (after the same training, so that their times are short), the
posterior, the prior. "Claimed" are numbers of the paper, those of other models as it quotes them.

Each result is appended to a file immediately, each fit has checkpoints, and fitted models are saved
for `figures.py`; an interrupted run resumes.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import joblib
import numpy as np
import torch
from report import OUTPUT, Results, mean_and_error, publish, with_error, write_tables
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split

from skevae import EnergyVAE, FlowPrior, GaussianBernoulliRBMPrior, NeuralPrior
from skevae.datasets.mnist import fetch_binarized_mnist


@dataclass(frozen=True)
class Effort:
    """Amount of work of a run."""

    n_components: int
    hidden_layer_sizes: tuple
    n_epochs: int
    n_score_draws: int


EFFORTS = {
    "quick": Effort(8, (32,), 3, 50),
    "reduced": Effort(64, (256,), 50, 1000),
    "full": Effort(64, (256,), 200, 1000),
}

SHARED = {
    "likelihood": "bernoulli",
    "objective": "elbo",
    "n_draws": 1,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "kl_warmup": 0.1,
    "early_stopping": False,
}
# With one draw eq. 3 is the reconstruction alone.
ECVVAE = {
    "prior": GaussianBernoulliRBMPrior(128),
    "posterior": "fixed",
    "partition": "posterior",
    "n_draws": 8,
}
MODELS = {
    "ECVVAE": ECVVAE,
    "ECVVAE, mixture of 4 ex post": {**ECVVAE, "ex_post": GaussianMixture(4)},
    "ECVVAE, mixture of 10 ex post": {**ECVVAE, "ex_post": GaussianMixture(10)},
    "N(0, I)": {"prior": "normal"},
    "N(0, I), IAF posterior": {"prior": "normal", "posterior": "iaf"},
    "N(0, I), volume-preserving IAF": {"prior": "normal", "posterior": "iaf-volume-preserving"},
    "mixture prior": {"prior": "mixture"},
    "VampPrior": {"prior": "vamp"},
    "flow prior": {"prior": FlowPrior()},
    "neural energy": {"prior": NeuralPrior()},
    "RBM, 24 units, exact ln Z": {"prior": GaussianBernoulliRBMPrior(24)},
    "RBM, 128 units, persistent chains": {"prior": GaussianBernoulliRBMPrior(128)},
}
# What the paper claims: by eq. 5, and for its ex-post mixtures.
CLAIMED = {
    "ECVVAE": 69.36,
    "ECVVAE, mixture of 4 ex post": 161.86,
    "ECVVAE, mixture of 10 ex post": 154.54,
}
KEY = ("data", "model", "n_epochs", "precision", "seed")  # of a result
QUOTED = {"CR-NVAE": 76.93, "BFN": 77.87, "NVAE": 78.01, "IAF-VAE": 79.10}


def data_name(options):
    return "digits" if options.effort == "quick" else options.binarization


def load(options):
    """Training and test rows, in [0, 1]."""
    if options.effort == "quick":
        rows = load_digits().data.astype(np.float32) / 16
        train, test = train_test_split(drawn(rows), test_size=0.25, random_state=0)
        return train[:500], test[:100]
    train, test = (
        fetch_binarized_mnist(
            subset=subset,
            binarization=options.binarization,
            local_npz=options.data,
            random_state=0,
            return_X_y=True,
        )[0]
        for subset in ("train", "test")
    )
    # One draw of the test rows, the same for all models.
    return train, drawn(test)


def drawn(probabilities):
    """Binary rows; those that are binary stay as they are."""
    uniform = np.random.default_rng(0).uniform(size=probabilities.shape)
    return (uniform < probabilities).astype(np.float32)


def make_model(name, effort, n_epochs, seed, folder, precision):
    """Build an unfitted model."""
    return EnergyVAE(
        **{**SHARED, **MODELS[name]},
        precision=precision,
        n_components=effort.n_components,
        hidden_layer_sizes=effort.hidden_layer_sizes,
        max_iter=n_epochs,
        n_score_draws=effort.n_score_draws,
        checkpoint_dir=folder / "checkpoints",
        random_state=seed,
    )


def model_file(folder, data, model, n_epochs, precision, seed):
    """Where a fitted model is saved."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in model)
    return folder / "models" / f"{data}-{plain}-{n_epochs}-{precision}-{seed}.joblib"


def measure(model, X):
    """Score a fitted model: nats a row, as negative log-likelihoods."""
    result = model.log_likelihood(X)
    reported = model.log_likelihood(X, method="self_normalized").log_likelihood
    return {
        "nll": mean_and_error(-result.log_likelihood),
        "equation_5": mean_and_error(-reported),
        "importance_error": float(np.median(result.standard_error)),
        "pareto_k_above": float(np.mean(result.pareto_k > 0.7)),
        # A density that is fitted ex post is normalised by itself.
        "log_partition": (0.0, 0.0)
        if model.ex_post_ is not None
        else tuple(model.prior_.log_partition_interval_),
        "n_test": len(X),
    }


def table(results, data, n_epochs, precision, seeds):
    """Header and rows of what has been measured, beside what is claimed."""
    header = ["model", "claimed", "what eq. 5 reports", "NLL", "k-hat > 0.7", "ln Z", "fit (s)"]
    claimed = {} if data == "digits" else CLAIMED
    lines = []
    for name in MODELS:
        for seed in seeds:
            row = results.get(
                data=data, model=name, n_epochs=n_epochs, precision=precision, seed=seed
            )
            if row is None and name not in claimed:
                continue
            label = name if len(seeds) == 1 else f"{name}, seed {seed}"
            claim = f"{claimed[name]:.2f}" if name in claimed else ""
            lines.append([label, claim, *measured(row, len(header) - 2)])
    if data != "digits":
        for name, nll in QUOTED.items():
            lines.append([f"{name} (as quoted)", f"{nll:.2f}", *measured(None, len(header) - 2)])
    return header, lines


def measured(row, n_cells):
    """Cells of a table: what `measure` found, if it has been there."""
    if row is None:
        return [""] * n_cells
    low, high = row["log_partition"]
    return [
        with_error(row["equation_5"], decimals=2),
        with_error(row["nll"], decimals=2),
        f"{row['pareto_k_above']:.0%}",
        "exact" if low == high else f"[{low:.2f}, {high:.2f}]",
        f"{row['fit_seconds']:.0f}",
    ]


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="effort", action="store_const", const="quick")
    size.add_argument("--full", dest="effort", action="store_const", const="full")
    parser.set_defaults(effort="reduced")
    parser.add_argument("--data", type=Path, metavar="FILE", help="npz file; else a download")
    parser.add_argument("--binarization", choices=["static", "dynamic"], default="static")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--epochs", type=int, help="50; 200 with --full; 3 with --quick")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of training")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--report", action="store_true", help="only show what has been measured")
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="where the table goes as well")
    return parser.parse_args()


def run(options, output, results, n_epochs):
    """Fit and measure what has no result yet."""
    train, test = load(options)
    for name in options.only:
        for seed in options.seeds:
            values = (data_name(options), name, n_epochs, options.precision, seed)
            key = dict(zip(KEY, values, strict=True))
            if results.get(**key):
                continue
            start = perf_counter()
            model = make_model(
                name, EFFORTS[options.effort], n_epochs, seed, output, options.precision
            )
            model.fit(train)
            seconds = perf_counter() - start
            file = model_file(output, **key)
            file.parent.mkdir(parents=True, exist_ok=True)
            joblib.dump(model, file)
            row = {**key, **measure(model, test), "fit_seconds": round(seconds, 1)}
            results.append(row)
            print(
                f"{name:36} seed {seed}  NLL {with_error(row['nll'])}  "
                f"eq. 5 {with_error(row['equation_5'])}  {seconds:.0f} s",
                flush=True,
            )


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_epochs = options.epochs or EFFORTS[options.effort].n_epochs
    output = options.output or OUTPUT / f"table2-{options.effort}"
    results = Results(output / "results.jsonl", KEY)
    if not options.report:
        run(options, output, results, n_epochs)
    data = data_name(options)
    header, lines = table(results, data, n_epochs, options.precision, options.seeds)
    caption = (
        f"Binarisation: {data}. {n_epochs} epochs, trained in {options.precision}, "
        f"{EFFORTS[options.effort].n_score_draws:,} draws of each estimate."
    )
    text = write_tables(output, f"table2-{data}", caption, header, lines)
    publish([output / f"table2-{data}.rst"], options.docs)
    print(f"\n{text}\nTable: {output}")


if __name__ == "__main__":
    main()
