"""Exact ln Z of the Gaussian-Bernoulli RBM, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skevae.energies import GaussianBernoulliEnergy
from skevae.log_partition.ising import IsingModel, reading_waits
from skevae.utils.ranks import ALONE, Ranks

# Underflow is far away if the total has used less than this fraction of the range of exponentials.
SAFE_SHARE = 0.5


class _LogPartition(torch.autograd.Function):
    """ln Z_h with its exact gradient: d/da = E[h], d/dJ = E[h h'] / 2."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, coupling: Tensor, checked: bool, ranks: Ranks) -> Tensor:
        ctx.model = IsingModel(bias, coupling, checked=checked, ranks=ranks)
        return ctx.model.log_partition

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        mean, second = ctx.model.moments()
        return grad * mean, 0.5 * grad * second, None, None


def log_partition(
    bias: Tensor, coupling: Tensor, *, checked: bool = True, ranks: Ranks = ALONE
) -> Tensor:
    r"""Exact ln sum_h exp(a.h + h'Jh/2), differentiable once.

    Parameters
    ----------
    bias : Tensor of shape (H,)
        a.
    coupling : Tensor of shape (H, H)
        J; only its symmetric part is used.
    checked : bool, default=True
        As for `IsingModel`.
    ranks : Ranks, optional
        As for `IsingModel`. All ranks compute the gradient, too.

    Returns
    -------
    Tensor, scalar
        In nats. It takes 2^(H+1) flops, and twice as many for the gradient.
    """
    return _LogPartition.apply(bias, 0.5 * (coupling + coupling.mT), checked, ranks)


def exact_log_partition(
    energy: GaussianBernoulliEnergy, *, checked: bool = True, ranks: Ranks = ALONE
) -> Tensor:
    """Exact ln Z in nats, scalar, differentiable, in the dtype of the energy (2^(H+1) flops).

    ``checked`` and ``ranks`` are those of `IsingModel`.
    """
    bias, coupling, log_volume = energy.hidden_machine()
    return log_volume + log_partition(bias, coupling, checked=checked, ranks=ranks)


@torch.no_grad()
def is_far_from_underflow(energy: GaussianBernoulliEnergy) -> bool:
    """Whether the tables need no underflow checks in the next training steps.

    Always False on the CPU, where checks cost nothing. Elsewhere, the host waits for the result.
    """
    if not reading_waits(energy.weight.device):
        return False
    bias, coupling, _ = energy.hidden_machine()
    return bool(IsingModel(bias, coupling).clearance() > SAFE_SHARE)
