"""Threads of the CPU: one for small work, and chunks of large work divided among several.

Threads within an operation wait for each other after every operation. For small operations, this
takes longer than they save; beside another busy process, it takes several times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TypeVar

import torch
from sklearn import config_context, get_config
from threadpoolctl import ThreadpoolController
from torch import nn

# Up to this many multiply-adds of a forward pass with one draw, two threads saved at most a tenth
# of the time of a training step on two idle cores. Beside another busy process they took five times
# as long as one.
SMALL_STEP = 2**22

# The same for a score, where the number of rows is that of all draws.
SMALL_SCORE = 2**25

T = TypeVar("T")
ResultT = TypeVar("ResultT")


def is_small(module: nn.Module, n_rows: int, multiply_adds: int = SMALL_STEP) -> bool:
    """Whether a pass of ``n_rows`` rows is too little work for several threads of the CPU."""
    parameters = list(module.parameters())
    # Other than matrices, kernels of convolutions are used many times for each row.
    reused = any(parameter.ndim > 2 for parameter in parameters)
    work = n_rows * sum(parameter.numel() for parameter in parameters)
    return not reused and work <= multiply_adds


def one_thread(small: bool) -> AbstractContextManager[object]:
    """Return a context with one OpenMP thread in the current thread of Python, if ``small``.

    A number of threads that was set by `torch.set_num_threads` still holds for the products of MKL.
    """
    if not small:
        return nullcontext()
    # The first use of torch in a thread of Python sets its number of threads, and would undo this.
    torch.get_num_threads()
    return _thread_pools().limit(limits=1, user_api="openmp")


def n_threads(device: torch.device) -> int:
    """Number of chunks of rows that `in_threads` should compute at the same time."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_threads(function: Callable[[T], ResultT], items: Iterable[T], n: int) -> list[ResultT]:
    """Results of a function, for up to ``n`` items at the same time.

    Every item is computed in one OpenMP thread, in a thread of Python with the configuration of
    scikit-learn of the caller. torch releases the lock of Python during its operations, so these
    threads run in parallel. The function must not depend on the order of the items.
    """
    config = get_config()

    def compute(item: T) -> ResultT:
        with config_context(**config), one_thread(True):
            return function(item)

    pool = ThreadPoolExecutor(n)
    try:
        return list(pool.map(compute, items))
    finally:
        # After an error or an interrupt, other items are not begun.
        pool.shutdown(cancel_futures=True)


@cache
def _thread_pools() -> ThreadpoolController:
    # Finding the libraries takes 15 ms, as long as a small `partial_fit`.
    return ThreadpoolController()
