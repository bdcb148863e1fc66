"""Training on a GPU: compare steps recorded as a CUDA graph, eager steps, and pythae.

    python examples/benchmarks/gpu.py [--data mnist.npz --key train] [--quick]

Toy: the paper's network for toy densities (densely connected, four layers of 16 units, 16 latents,
a prior of 32 hidden units), batches of 256, 8 draws; time of a step. MNIST: 784-256-64, batches of
128, one draw; epochs a second. Exact ln Z: value at 36 to 44 hidden units, float32. `--device cpu`
only shows that the script works: nothing is recorded there.
"""

import argparse
import warnings
from functools import partial

import torch
from sklearn.exceptions import ConvergenceWarning
from speed import BATCH_SIZE, have_pythae, load_rows, model, per_epoch, train_peer
from tables import markdown
from timing import ratio, seconds, side_by_side

from skevae import GaussianBernoulliRBMPrior
from skevae.datasets import toy_density
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.log_partition.exact import exact_log_partition
from skevae.utils.random import make_generator

TOY = {
    "n_components": 16,
    "hidden": (16,) * 4,
    "network": "densenet",
    "likelihood": "gaussian-rowwise",
    "prior": GaussianBernoulliRBMPrior(32),
    "n_draws": 8,
}


def table_rows(task, steps, times):
    """Lines of the table; ratios are to the first contender."""
    first = next(iter(times.values()))
    return [
        [task, name, f"{1e3 * min(values) / steps:.3f}", f"{1 / min(values):.2f}"]
        + [f"{ratio(first, values):.2f}"]
        for name, values in times.items()
    ]


def contenders(X, epochs, **settings):
    """Eager and recorded training: seconds of an epoch."""

    def fit(epochs, cuda_graph):
        model(epochs=epochs, cuda_graph=cuda_graph, **settings).fit(X)

    names = {"skevae, eager": False, "skevae, recorded": True}
    return {
        name: partial(per_epoch, partial(fit, cuda_graph=recorded), epochs)
        for name, recorded in names.items()
    }


def partition_rows(units, device):
    rows = []
    for n_hidden in units:
        density = GaussianBernoulliDensity(16, n_hidden, generator=make_generator(n_hidden))
        energy = density.to(device).as_energy()

        def evaluate(energy=energy):
            with torch.no_grad():
                return exact_log_partition(energy).item()

        evaluate()
        rows.append([n_hidden, f"{seconds(evaluate):.3f}"])
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an .npz of rows of 784 numbers")
    parser.add_argument("--key", default="train", help="name of the array in it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few rows, one round")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.exit(message="There is no CUDA device here.\n")
    n_toy, n_images, repeats, units = 51_200, 51_200, 5, [36, 40, 44]
    if options.quick:
        n_toy, n_images, repeats, units = 5_120, 1_280, 1, [20, 24]
    warnings.simplefilter("ignore", ConvergenceWarning)

    toy = toy_density("8gaussians").sample(n_toy, random_state=0)
    run = contenders(toy, 5, device=options.device, batch_size=256, **TOY)
    table = table_rows("toy", n_toy // 256, side_by_side(run, repeats))

    images = load_rows(options.data, options.key, n_images)
    run = contenders(images, 2, device=options.device)
    if have_pythae():
        peer = partial(train_peer, images, 1, device=options.device)
        run["pythae VAE"] = partial(per_epoch, peer, 2)
    table += table_rows("MNIST", n_images // BATCH_SIZE, side_by_side(run, repeats))
    header = ["task", "", "ms a step", "epochs a second", "times as fast as the first"]
    print(f"{options.device}, torch {torch.__version__}\n\n{markdown(header, table)}\n")
    print(markdown(["H", "exact ln Z, seconds"], partition_rows(units, options.device)))
