"""Training, scoring and sampling speed of EnergyVAE, pythae and plain matrix products.

Networks, minibatches and draws are equal, and the prior is N(0, I) on both sides unless said
otherwise. Next to every number run the matrix products of the same work alone: as many, of the same
shapes, in the same process.

    pip install pythae
    python examples/benchmarks/speed.py [--data mnist.npz --key train] [--threads 1] [--quick]
                                        [--growth growth.png]

Without --data the rows are random binary ones. Pythae is left out where it is not installed.
--growth draws the time of a training epoch and of scoring against five sizes, log-log (matplotlib).
"""

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from functools import partial
from statistics import median

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from tables import markdown
from threadpoolctl import threadpool_limits
from timing import (
    forward_products,
    layer_products,
    matrix_products,
    ratio,
    seconds,
    side_by_side,
    training_products,
)
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.energies import AnnealingPath
from skevae.log_partition.annealing import anneal_forward
from skevae.log_partition.exact import exact_log_partition
from skevae.networks import MLP
from skevae.samplers.gibbs import block_gibbs
from skevae.utils.log_mean import log_mean_exp, log_mean_exp_error
from skevae.utils.random import make_generator

BATCH_SIZE = 128
N_SCORE_DRAWS = 1000
SCORED_EPOCHS = 10


def load_rows(path, key, n_rows):
    """Binary rows of 784 pixels, float32."""
    if path is None:
        return np.random.default_rng(0).integers(0, 2, (n_rows, 784)).astype(np.float32)
    with np.load(path) as arrays:
        rows = arrays[key][:n_rows].reshape(-1, 784)
    return (rows > rows.max() / 2).astype(np.float32)


def model(n_components=64, hidden=(256,), likelihood="bernoulli", n_draws=1, epochs=1, **params):
    objective = "iwae" if n_draws > 1 else "elbo"
    defaults = {"prior": "normal", "objective": objective, "batch_size": BATCH_SIZE}
    params = {**defaults, "device": "cpu", **params}
    return EnergyVAE(
        n_components,
        hidden_layer_sizes=hidden,
        network=MLP(activation="relu"),
        likelihood=likelihood,
        n_draws=n_draws,
        max_iter=epochs,
        kl_warmup=0.0,
        early_stopping=False,
        learning_rate=1e-3,
        n_score_draws=N_SCORE_DRAWS,
        random_state=0,
        **params,
    )


# --- pythae ---------------------------------------------------------------------------------------


def have_pythae():
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import pythae.models  # noqa: F401
    except ImportError:
        return False
    logging.disable(logging.INFO)
    return True


def peer_model(n_features, n_components, hidden, loss, n_draws):
    """VAE or IWAE of pythae with the networks that `model` builds."""
    from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    def trunk(sizes):
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        return nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())))

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.trunk = trunk([n_features, *hidden])
            self.embedding = nn.Linear(hidden[-1], n_components)
            self.log_variance = nn.Linear(hidden[-1], n_components)

        def forward(self, x):
            x = self.trunk(x)
            return ModelOutput(embedding=self.embedding(x), log_covariance=self.log_variance(x))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            output = nn.Linear(hidden[0], n_features)
            squash = nn.Sigmoid() if loss == "bce" else nn.Identity()
            self.net = nn.Sequential(trunk([n_components, *hidden[::-1]]), output, squash)

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z))

    shape = {
        "input_dim": (n_features,),
        "latent_dim": n_components,
        "reconstruction_loss": loss,
    }
    torch.manual_seed(0)
    if n_draws > 1:
        return IWAE(IWAEConfig(number_samples=n_draws, **shape), Encoder(), Decoder())
    return VAE(VAEConfig(**shape), Encoder(), Decoder())


def train_peer(X, n_draws, epochs, device="cpu"):
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    peer = peer_model(784, 64, (256,), "bce", n_draws)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=1e-3,
            keep_best_on_train=True,
            no_cuda=device == "cpu",
        )
        rows = torch.from_numpy(X)
        BaseTrainer(peer, BaseDataset(rows, torch.zeros(len(rows))), training_config=config).train()


@torch.no_grad()
def score_peer(peer, X):
    peer.get_nll(torch.from_numpy(X), n_samples=N_SCORE_DRAWS, batch_size=N_SCORE_DRAWS)


# --- measurements ---------------------------------------------------------------------------------


def per_epoch(fit, epochs):
    """Seconds of an epoch: what ``epochs`` more of them add to a fit of one."""
    return (seconds(partial(fit, epochs=1 + epochs)) - seconds(partial(fit, epochs=1))) / epochs


def alone(products):
    """Contenders that make these products in float32 and nothing else."""
    contenders = {
        "matrix products alone": matrix_products(products, torch.float32),
        "the same, as skevae's layers": layer_products(products),
    }
    return {name: partial(seconds, run) for name, run in contenders.items()}


def table_rows(task, n_rows, times):
    """Lines of the table: rows a second, and times as ratios to ours and to the products."""
    ours = next(iter(times.values()))
    products = times["matrix products alone"]
    return [
        [
            task,
            name,
            f"{n_rows / median(values):,.0f}",
            f"{ratio(values, ours):.2f}",
            f"{ratio(values, products):.2f}",
        ]
        for name, values in times.items()
    ]


def training(X, n_draws, prior, epochs, repeats):
    """784-256-64, one pass over X."""

    def fit_ours(epochs):
        model(n_draws=n_draws, epochs=epochs, prior=prior, partition="auto").fit(X)

    contenders = {f"skevae, prior {prior}": partial(per_epoch, fit_ours, epochs)}
    if have_pythae():
        name = "pythae IWAE" if n_draws > 1 else "pythae VAE"
        contenders[name] = partial(per_epoch, partial(train_peer, X, n_draws), epochs)
    step = training_products([784, 256, 128], BATCH_SIZE, of_data=True)
    step += training_products([64, 256, 784], BATCH_SIZE * n_draws, of_data=False)
    contenders |= alone(step * (len(X) // BATCH_SIZE))
    return table_rows(f"training, {n_draws} draws", len(X), side_by_side(contenders, repeats))


def scoring(task, X, n_rows, peer_rows, repeats, *, hidden, n_components, likelihood, loss):
    """1,000 importance draws for each row; times are for one row."""
    # Trained: fitting proposals takes more steps for a model that is far from its data.
    ours = model(n_components, hidden, likelihood, epochs=SCORED_EPOCHS).fit(X)
    # The decoder of one row's draws; the encoder's share is a thousandth.
    sizes = [n_components, *hidden[::-1], X.shape[1]]
    products = alone(forward_products(sizes, N_SCORE_DRAWS) * n_rows)
    contenders = {"skevae": lambda: seconds(lambda: ours.score_samples(X[:n_rows])) / n_rows}
    if have_pythae():
        peer = peer_model(X.shape[1], n_components, hidden, loss, 1).eval()
        run = partial(score_peer, peer, X[:peer_rows])
        contenders["pythae get_nll"] = lambda: seconds(run) / peer_rows
    contenders |= {name: lambda run=run: run() / n_rows for name, run in products.items()}
    return table_rows(f"scoring, {task}", 1, side_by_side(contenders, repeats))


def sampling(X, n_rows, repeats):
    """Rows drawn from the fitted model, exact draws of the prior included."""
    ours = model(prior=GaussianBernoulliRBMPrior(20)).fit(X[:1000])
    contenders = {"skevae, prior of 20 units": lambda: seconds(lambda: ours.sample(n_rows))}
    contenders |= alone(forward_products([64, 256, 784], n_rows))
    return table_rows("sampling", n_rows, side_by_side(contenders, repeats))


def partition_table(units, target_error, repeats):
    """Exact ln Z beside annealing with as many steps as bring its error below ``target_error``."""
    rows = []
    for n_hidden in units:
        generator = make_generator(n_hidden)
        density = GaussianBernoulliDensity(16, n_hidden, generator=generator, initial_scale=0.5)
        energy = density.as_energy().to(torch.float64)
        with torch.no_grad():
            exact = exact_log_partition(energy).item()
            centre = energy.conditional_mean(torch.full_like(energy.hidden_bias, 0.5))
            variance = energy.variance + 0.25 * energy.weight.square().sum(1)
        path = AnnealingPath(energy, centre, variance)

        def anneal(n_betas, path=path, generator=generator):
            return anneal_forward(path, block_gibbs, generator, n_chains=100, n_betas=n_betas)[0]

        n_betas = 25
        while n_betas < 6400 and log_mean_exp_error(anneal(n_betas)) > target_error:
            n_betas *= 2
        log_weights = anneal(n_betas)
        side = round(2 ** (n_hidden / 3))
        product = matrix_products([(side, side, side)], torch.float64)

        def evaluate(energy=energy):
            with torch.no_grad():
                return exact_log_partition(energy)

        times = side_by_side(
            {
                "exact": partial(seconds, evaluate),
                "annealed": partial(seconds, partial(anneal, n_betas)),
                "product": partial(seconds, product),
            },
            repeats,
        )
        rows.append(
            [
                n_hidden,
                f"{1e3 * median(times['exact']):.2f}",
                f"{ratio(times['exact'], times['product']):.1f}",
                f"{1e3 * median(times['annealed']):.0f}",
                n_betas,
                f"{log_mean_exp_error(log_weights).item():.3f}",
                f"{log_mean_exp(log_weights).item() - exact:+.3f}",
                f"{ratio(times['annealed'], times['exact']):.0f}",
            ]
        )
    return rows


# --- growth ---------------------------------------------------------------------------------------

GROWTH = {
    "rows": [500, 1000, 2000, 4000],
    "features": [8, 32, 128, 512],
    "latents": [4, 16, 64, 256],
    "draws": [1, 4, 16, 64],
    "hidden units": [8, 12, 16, 20, 24],
}


def growth_point(name, value):
    """Milliseconds of a training epoch and of scoring, one size changed."""
    size = {"rows": 1000, "features": 16, "latents": 8, "draws": 4, "hidden units": 12, name: value}
    X = np.random.default_rng(0).normal(size=(size["rows"], size["features"])).astype(np.float32)
    settings = {"prior": GaussianBernoulliRBMPrior(size["hidden units"]), "n_draws": size["draws"]}

    def fit(epochs):
        return model(size["latents"], (64, 64), "gaussian", epochs=epochs, **settings).fit(X)

    fitted = fit(1).set_params(n_score_draws=25 * size["draws"])
    train = median(per_epoch(fit, 2) for _ in range(3))
    score = median(seconds(lambda: fitted.score_samples(X)) for _ in range(3))
    return 1e3 * train, 1e3 * score


def draw_growth(path, quick):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(GROWTH), figsize=(16, 3.5), sharey=True, layout="constrained"
    )
    for ax, (name, values) in zip(axes, GROWTH.items(), strict=True):
        values = values[:: len(values) - 1] if quick else values
        times = np.array([growth_point(name, value) for value in values])
        ax.loglog(values, times, "o-", label=["training epoch", "scoring"])
        ax.loglog(values, times[0, 0] * np.array(values) / values[0], ":", color="grey")
        ax.set_xticks(values, values)
        ax.set_xticks([], minor=True)
        ax.set_xlabel(name)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend()
    figure.suptitle("Growth with one size (dotted: proportional)")
    figure.savefig(path)
    print(f"\nGrowth: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an .npz of rows of 784 numbers")
    parser.add_argument("--key", default="train", help="name of the array in it")
    parser.add_argument("--rows", type=int, default=10_240)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="few rows, one round")
    parser.add_argument("--growth", help="file for the log-log picture")
    options = parser.parse_args()
    n_scored, peer_rows, n_sampled, units = 500, 20, 10_000, [16, 20, 24, 28]
    if options.quick:
        options.rows, options.repeats = 2_048, 1
        n_scored, peer_rows, n_sampled, units = 50, 3, 2_000, [16, 20]
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)

    images = load_rows(options.data, options.key, options.rows)
    columns = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    kind = "random rows" if options.data is None else f"rows of {options.data}"
    print(
        f"{len(images)} {kind}, 784-256-64, batch {BATCH_SIZE}; {options.threads} threads, "
        f"torch {torch.__version__}\n"
    )
    repeats = options.repeats
    table = []
    with threadpool_limits(options.threads):
        table += training(images, 1, "normal", 2, repeats)
        table += training(images, 5, "normal", 2, repeats)
        table += training(images, 1, "grbm", 2, repeats)
        table += scoring(
            "784-256-64",
            images,
            n_scored,
            peer_rows,
            repeats,
            hidden=(256,),
            n_components=64,
            likelihood="bernoulli",
            loss="bce",
        )
        table += scoring(
            "8 columns, 64-64",
            columns,
            n_scored,
            peer_rows,
            repeats,
            hidden=(64, 64),
            n_components=8,
            likelihood="gaussian",
            loss="mse",
        )
        table += sampling(images, n_sampled, repeats)
        print(markdown(["task", "", "rows a second", "time over ours", "over products"], table))
        print("\nln Z of 16 visible units: exact, and annealed (100 chains) to an error of 0.01\n")
        header = ["H", "exact ms", "over product", "annealed ms", "steps", "its error"]
        header += ["annealed - exact", "annealed over exact"]
        print(markdown(header, partition_table(units, 0.01, repeats)))
        if options.growth:
            draw_growth(options.growth, options.quick)
