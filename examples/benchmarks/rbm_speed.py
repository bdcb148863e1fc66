"""Time of a training epoch of GaussianBernoulliRBMPrior, learnergy and scikit-learn.

All have 784 visible units, the same rows, minibatches of 128 and one Gibbs step; ours and
scikit-learn's keep 128 chains from step to step, learnergy's start at the data. Next to them run
the matrix products of such a step alone: the same number and shapes, in the same process.

    pip install learnergy
    python examples/benchmarks/rbm_speed.py [--data mnist.npz --key train] [--threads 1] [--quick]

Without --data the rows are random. Learnergy is left out where it is not installed.
"""

import argparse
import logging
import warnings
from functools import partial
from statistics import median

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import BernoulliRBM
from tables import markdown
from threadpoolctl import threadpool_limits
from timing import matrix_products, ratio, seconds, side_by_side

from skevae import GaussianBernoulliRBMPrior

BATCH_SIZE = 128
N_VISIBLE = 784


def load_rows(path, key, n_rows):
    """Rows in [0, 1], float32."""
    if path is None:
        return np.random.default_rng(0).random((n_rows, N_VISIBLE), dtype=np.float32)
    with np.load(path) as arrays:
        rows = arrays[key][:n_rows]
    rows = rows.reshape(len(rows), -1).astype(np.float32)
    return rows / rows.max()


def step_products(n_hidden):
    """Products of one step with persistent chains, b rows and b chains.

    Hidden units of the data and the gradient from them; a Gibbs sweep, hidden then visible; hidden
    units of the chains and the gradient from them.
    """
    hidden = (BATCH_SIZE, N_VISIBLE, n_hidden)
    visible = (BATCH_SIZE, n_hidden, N_VISIBLE)
    gradient = (N_VISIBLE, BATCH_SIZE, n_hidden)
    return [hidden, gradient, hidden, visible, hidden, gradient]


def make_ours(n_hidden, partition):
    return GaussianBernoulliRBMPrior(
        n_hidden,
        partition=partition,
        n_chains=BATCH_SIZE,
        batch_size=BATCH_SIZE,
        max_iter=1,
        learning_rate=1e-3,
        early_stopping=False,
        device="cpu",
        random_state=0,
    )


def pass_of_ours(X, n_hidden, partition):
    """Contender: one pass over X of a model that made a pass before.

    It includes the annealing run by which every epoch tells ln Z.
    """
    model = make_ours(n_hidden, partition).partial_fit(X)
    return lambda: seconds(lambda: model.partial_fit(X))


def fit_sklearn(X, n_hidden, epochs):
    BernoulliRBM(n_hidden, batch_size=BATCH_SIZE, n_iter=epochs, random_state=0).fit(X)


def fit_learnergy(X, n_hidden, epochs):
    from learnergy.models.gaussian import GaussianRBM

    torch.manual_seed(0)
    rows = torch.from_numpy(X)
    dataset = torch.utils.data.TensorDataset(rows, torch.zeros(len(rows)))
    model = GaussianRBM(N_VISIBLE, n_hidden, steps=1, learning_rate=1e-3)
    model.fit(dataset, batch_size=BATCH_SIZE, epochs=epochs)


def per_epoch(fit, epochs):
    """Seconds of an epoch: what ``epochs`` more of them add to a fit of one."""
    return (seconds(partial(fit, epochs=1 + epochs)) - seconds(partial(fit, epochs=1))) / epochs


def products_per_epoch(n_hidden, n_steps):
    run = matrix_products(step_products(n_hidden) * n_steps, torch.float32)
    run()
    return lambda: seconds(run)


def have_learnergy():
    try:
        import learnergy  # noqa: F401
    except ImportError:
        return False
    logging.disable(logging.INFO)
    return True


def benchmark(X, n_hidden, epochs, repeats):
    """Times of every contender, a list each: seconds of an epoch."""
    n_steps = -(-len(X) // BATCH_SIZE)
    fits = {
        "scikit-learn BernoulliRBM (PCD-1)": partial(fit_sklearn, X, n_hidden),
        "scikit-learn, float64 rows": partial(fit_sklearn, X.astype(np.float64), n_hidden),
    }
    if have_learnergy():
        fits["learnergy GaussianRBM (CD-1)"] = partial(fit_learnergy, X, n_hidden)
    contenders = {
        "skevae, persistent (PCD-1)": pass_of_ours(X, n_hidden, "persistent"),
        "skevae, contrastive (CD-1)": pass_of_ours(X, n_hidden, "contrastive"),
        **{name: partial(per_epoch, fit, epochs) for name, fit in fits.items()},
    }
    contenders["matrix products alone"] = products_per_epoch(n_hidden, n_steps)
    return side_by_side(contenders, repeats)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an .npz of rows of 784 numbers")
    parser.add_argument("--key", default="train", help="name of the array in it")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--units", type=int, nargs="+", default=[128, 500])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few rows, one round")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.epochs, options.repeats = 2_000, 2, 1
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)

    X = load_rows(options.data, options.key, options.rows)
    kind = "random rows" if options.data is None else f"rows of {options.data}"
    print(
        f"{len(X)} {kind}, {N_VISIBLE} visible units, batch {BATCH_SIZE}; {options.threads} "
        f"threads, torch {torch.__version__}, scikit-learn {sklearn.__version__}\n"
    )
    table = []
    with threadpool_limits(options.threads):
        for n_hidden in options.units:
            times = benchmark(X, n_hidden, options.epochs, options.repeats)
            ours, products = times["skevae, persistent (PCD-1)"], times["matrix products alone"]
            for name, values in times.items():
                table.append(
                    [
                        n_hidden,
                        name,
                        f"{1e3 * median(values):.0f}",
                        f"{ratio(values, ours):.2f}",
                        f"{ratio(values, products):.2f}",
                    ]
                )
            # What a fit does once: chains that settle before it, two annealing runs after it.
            fit = make_ours(n_hidden, "persistent").fit
            once = seconds(partial(fit, X)) - median(ours)
            table.append([n_hidden, "skevae, once a fit: chains, ln Z", f"{1e3 * once:.0f}"])
    header = ["hidden units", "", "ms an epoch", "over skevae", "over products"]
    print(markdown(header, [row + [""] * (len(header) - len(row)) for row in table]))
