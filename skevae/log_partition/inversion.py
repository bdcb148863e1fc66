"""Random draws of indices from tables, by inversion of cumulative sums."""

from __future__ import annotations

import torch
from torch import Tensor


def invert(cumulative: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """Draw indices from one cumulative table by inversion: (n_samples,)."""
    uniform = torch.rand(
        n_samples, generator=generator, dtype=cumulative.dtype, device=cumulative.device
    )
    index = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return index.clamp_(max=cumulative.numel() - 1)


def invert_rows(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one index from each row of log-weights: (n, k) -> (n,)."""
    cumulative = log_weights.double().softmax(1).cumsum(1)
    uniform = torch.rand(
        cumulative.shape[0], 1, generator=generator, dtype=torch.float64, device=cumulative.device
    )
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return index.clamp_(max=cumulative.shape[1] - 1).squeeze(1)
