"""Evaluation in chunks of bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from skevae.utils.linear import ROWS_MULTIPLE
from skevae.utils.memory import CACHE_BYTES

# With fewer rows of a chunk, threads that compute a chunk each are slower than one chunk.
MIN_ROWS = 8


@torch.no_grad()
def widest_output(module: nn.Module, example: Tensor) -> int:
    """Largest number of values that any layer of ``module`` returns for one row ``example``."""
    widest = example.numel()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal widest
        if isinstance(output, Tensor):
            widest = max(widest, output.numel())

    handles = [layer.register_forward_hook(note) for layer in module.modules()]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    return widest


def chunk_sizes(
    n_rows: int, n_draws: int, width: int, itemsize: int, max_bytes: int
) -> tuple[int, int]:
    """Split an evaluation of ``n_rows`` x ``n_draws`` into chunks of bounded memory.

    Parameters
    ----------
    n_rows, n_draws : int
    width : int
        Number of values of the widest layer for each (draw, row).
    itemsize : int
        Bytes of a value.
    max_bytes : int
        Limit for the memory of all temporaries together.

    Returns
    -------
    rows_at_once, draws_at_once : int
    """
    # The input of a layer, its output and two temporaries of that size exist at the same time, and
    # so do about eight (n_draws, rows) tables of log-weights.
    values = min(max_bytes // 2, CACHE_BYTES) // itemsize
    # Prefer few rows to few draws: with many draws, products can use the fastest library.
    draws_wanted = min(n_draws, ROWS_MULTIPLE)
    rows_at_once = min(n_rows, values // (8 * n_draws), values // (4 * width * draws_wanted))
    rows_at_once = max(1, rows_at_once)
    draws_at_once = max(1, min(n_draws, values // (4 * rows_at_once * width)))
    if ROWS_MULTIPLE < draws_at_once < n_draws:
        draws_at_once -= draws_at_once % ROWS_MULTIPLE
    return rows_at_once, draws_at_once


def balanced(n_rows: int, rows_at_once: int, n_threads: int) -> int:
    """Reduce the number of rows of a chunk, so that threads have equally many chunks to compute.

    Chunks are not made smaller than `MIN_ROWS` rows for this.
    """
    n_threads = max(1, min(n_threads, n_rows // MIN_ROWS))
    n_rounds = math.ceil(n_rows / (n_threads * rows_at_once))
    return math.ceil(n_rows / (n_threads * n_rounds))
