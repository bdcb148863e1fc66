"""The precision of the matrix products of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Precisions of the matrix products of a training step; None is the dtype of the rows.
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}


def evaluate(network: nn.Module, x: Tensor, precision: torch.dtype | None) -> Tensor:
    """Output of a network in the dtype of ``x``, with matrix products in ``precision``."""
    if precision is None:
        return network(x)
    with torch.autocast(x.device.type, precision):
        return network(x).to(x.dtype)
