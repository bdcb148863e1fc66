"""Exact ln Z of the Gaussian-Bernoulli RBM: time of value and gradient and of a plain product.

For each number H of hidden units, the partition function and its gradient are timed next to a
square matrix product of as many operations, in the same process:

    python examples/benchmarks/partition.py [--units 16 20 24 28 32] [--threads 2]
"""

import argparse
from time import perf_counter

import torch

from skevae.energies import GaussianBernoulliEnergy
from skevae.log_partition.exact import exact_log_partition


def best_of(function, repeats):
    """Shortest of some runs, in seconds: what the machine can do when nothing disturbs it."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return min(times)


def random_energy(n_visible, n_hidden, dtype):
    generator = torch.Generator().manual_seed(n_hidden)
    weight = torch.randn((n_visible, n_hidden), generator=generator, dtype=dtype)
    return GaussianBernoulliEnergy(
        (0.5 * weight).requires_grad_(),
        torch.full((n_hidden,), -1.0, dtype=dtype),
        torch.zeros(n_visible, dtype=dtype),
        torch.ones(n_visible, dtype=dtype),
    )


def benchmark(n_hidden, dtype, repeats):
    """Seconds of a value, a value with gradient, and a product of 2^(H+1) operations."""
    energy = random_energy(16, n_hidden, dtype)

    def gradient():
        energy.weight.grad = None
        exact_log_partition(energy).backward()

    side = round(2 ** (n_hidden / 3))
    left, right = torch.rand((2, side, side), dtype=dtype)
    with torch.no_grad():
        value = best_of(lambda: exact_log_partition(energy), repeats)
        product = best_of(lambda: left @ right, repeats)
    return value, best_of(gradient, repeats), product


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[16, 20, 24, 28, 30, 32])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads; milliseconds, best of several")
    print(f"{'H':>3} {'dtype':>8} {'value':>9} {'+grad':>9} {'product':>9} {'value/product':>14}")
    for dtype in (torch.float64, torch.float32):
        for n_hidden in options.units:
            repeats = 3 if n_hidden > 29 else 10
            times = [1e3 * seconds for seconds in benchmark(n_hidden, dtype, repeats)]
            name = str(dtype).removeprefix("torch.")
            ratio = times[0] / times[2]
            print(
                f"{n_hidden:3} {name:>8}" + "".join(f" {t:9.2f}" for t in times) + f" {ratio:14.2f}"
            )
