"""Blocks of hidden units, and all configurations of a block."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def configurations(n_units: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """All binary rows of length ``n_units``: (2^n_units, n_units), row k the bits of k."""
    # The cache never evicts, because there are fewer block sizes than entries: a CUDA graph that
    # was recorded with a table can rely on its memory.
    codes = torch.arange(2**n_units, device=device)
    return (codes[:, None] >> torch.arange(n_units, device=device)).bitwise_and(1).to(dtype)


def block_sizes(n_units: int) -> tuple[int, int, int]:
    """Return the sizes of A, B and C, as equal as possible."""
    third, rest = divmod(n_units, 3)
    return third + (rest > 0), third, third + (rest > 1)
