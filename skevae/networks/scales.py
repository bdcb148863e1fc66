"""Positive scales from unconstrained outputs."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

# softplus(UNIT_SHIFT) = 1.
UNIT_SHIFT = math.log(math.expm1(1.0))


def positive(raw: Tensor) -> Tensor:
    """Softplus, shifted so that 0 gives 1: an untrained network starts at unit scale."""
    return F.softplus(raw + UNIT_SHIFT)


def inverse_positive(value: Tensor) -> Tensor:
    """Inverse of `positive`, for a positive ``value``."""
    return value + (-(-value).expm1()).log() - UNIT_SHIFT
