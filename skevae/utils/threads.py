"""Small steps of training in one thread."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from threadpoolctl import ThreadpoolController
from torch import nn

# Up to this many multiply-adds of a forward pass with one draw, two threads saved at most a tenth
# of the time on two idle cores. Beside another busy process they took five times as long as one,
# because threads wait for each other after every operation.
SMALL_MULTIPLY_ADDS = 2**22


def is_small(module: nn.Module, n_rows: int) -> bool:
    """Whether a pass of ``n_rows`` rows is too little work for several threads of the CPU."""
    parameters = list(module.parameters())
    # Other than matrices, kernels of convolutions are used many times for each row.
    reused = any(parameter.ndim > 2 for parameter in parameters)
    work = n_rows * sum(parameter.numel() for parameter in parameters)
    return not reused and work <= SMALL_MULTIPLY_ADDS


def one_thread(small: bool) -> AbstractContextManager[object]:
    """Return a context with one OpenMP thread in the current thread of Python, if ``small``.

    A number of threads that was set by `torch.set_num_threads` still holds for the products of MKL.
    """
    if not small:
        return nullcontext()
    # The first use of torch in a thread of Python sets its number of threads, and would undo this.
    torch.get_num_threads()
    return _thread_pools().limit(limits=1, user_api="openmp")


@cache
def _thread_pools() -> ThreadpoolController:
    # Finding the libraries takes 15 ms, as long as a small `partial_fit`.
    return ThreadpoolController()
