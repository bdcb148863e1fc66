"""Exact independent draws."""

from __future__ import annotations

from typing import Self

import torch
from sklearn.base import clone
from torch import Tensor

from skevae.energies import GaussianBernoulliEnergy
from skevae.log_partition.ising import IsingModel
from skevae.samplers.base import Sampler
from skevae.samplers.gibbs import sample_visible


@torch.no_grad()
def exact_sample(
    energy: GaussianBernoulliEnergy, n_samples: int, generator: torch.Generator
) -> Tensor:
    """Draw independent rows from p(z): h from the tables of the Ising model, then z given h.

    The tables are in float64 for any dtype of the energy.
    """
    bias, coupling, _ = energy.to(torch.float64).hidden_machine()
    h = IsingModel(bias, coupling).sample(n_samples, generator)
    return sample_visible(energy, h.to(energy.weight.dtype), generator)


def draw_components(weights: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """Draw indices with probabilities ``weights``, (K,) -> (n_samples,)."""
    cumulative = weights.cumsum(0)
    uniform = torch.rand(n_samples, generator=generator, dtype=weights.dtype, device=weights.device)
    # Not torch.multinomial, which raises if a weight is nan in a diverging run.
    return torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp(max=weights.numel() - 1)


class ExactSampler(Sampler):
    """Independent draws, which do not depend on the current states of the chains.

    Each transition costs 2^(H+1) operations.

    Examples
    --------
    >>> from skevae import GaussianBernoulliRBMPrior
    >>> from skevae.samplers import ExactSampler
    >>> GaussianBernoulliRBMPrior(8, partition="persistent", sampler=ExactSampler()).sampler
    ExactSampler()
    """

    needs_exact_tables = True
    n_steps = 1  # more would not change the distribution of the draws
    _parameter_constraints = {}

    def __init__(self) -> None:
        """Take no parameters."""

    def lengthened(self, n_steps: int) -> Self:
        return clone(self)

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        return exact_sample(energy, z.shape[0], generator)
