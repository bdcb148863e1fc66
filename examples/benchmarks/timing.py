"""Shared code of the speed benchmarks: alternating timing, plain matrix products, tables."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter, process_time

import torch

from skevae.utils.linear import linear

Product = tuple[int, int, int]  # (m, k, n): an (m, k) matrix times a (k, n) matrix


def seconds(function: Callable[[], object]) -> float:
    """Time of one call: with one thread, its CPU time, which hardly depends on other load."""
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    start = clock()
    function()
    return clock() - start


def side_by_side(
    contenders: dict[str, Callable[[], float]], repeats: int
) -> dict[str, list[float]]:
    """Measure contenders in turn, round after round, so that a busy machine slows all alike.

    Each contender returns a time; the lists that come back are parallel. A first round is thrown
    away: memory is allocated then and libraries are loaded.
    """
    for measure in contenders.values():
        measure()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, measure in contenders.items():
            times[name].append(measure())
    return times


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(numerator, denominator, strict=True))


def matrix_products(products: Sequence[Product], dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that makes these products and nothing else, into memory laid out before."""
    generator = torch.Generator().manual_seed(0)
    operands = {
        (m, k, n): (
            torch.randn((m, k), generator=generator, dtype=dtype),
            torch.randn((k, n), generator=generator, dtype=dtype),
            torch.empty((m, n), dtype=dtype),
        )
        for m, k, n in products
    }

    def run() -> None:
        for product in products:
            left, right, out = operands[product]
            torch.mm(left, right, out=out)

    return run


def layer_products(products: Sequence[Product]) -> Callable[[], None]:
    """Return a function that makes these products in float32 as the layers of skevae make them."""
    generator = torch.Generator().manual_seed(0)
    operands = {
        (m, k, n): (
            torch.randn((m, k), generator=generator),
            torch.randn((n, k), generator=generator),
        )
        for m, k, n in products
    }

    @torch.no_grad()
    def run() -> None:
        for product in products:
            linear(*operands[product])

    return run


def forward_products(sizes: Sequence[int], rows: int) -> list[Product]:
    """Products of a network of layers ``sizes`` over ``rows``."""
    return [(rows, *layer) for layer in zip(sizes[:-1], sizes[1:], strict=True)]


def training_products(sizes: Sequence[int], rows: int, *, of_data: bool) -> list[Product]:
    """Forward products and those of the gradients; the input needs none if it is data."""
    forward = forward_products(sizes, rows)
    weights = [(n_inputs, rows, n_outputs) for _, n_inputs, n_outputs in forward]
    inputs = [(rows, n_outputs, n_inputs) for _, n_inputs, n_outputs in forward]
    return forward + weights + inputs[of_data:]
