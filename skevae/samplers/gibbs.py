"""Block Gibbs sweeps for a Gaussian-Bernoulli energy."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.energies import GaussianBernoulliEnergy
from skevae.samplers.base import Sampler
from skevae.utils.random import binary, standard_normal


def sample_hidden(energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator) -> Tensor:
    """Draw h from p(h | z): (..., n_visible) -> (..., n_hidden)."""
    return binary(energy.hidden_logits(z).sigmoid_(), generator)


def sample_visible(
    energy: GaussianBernoulliEnergy, h: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw z from p(z | h): (..., n_hidden) -> (..., n_visible)."""
    mean = energy.conditional_mean(h)
    return mean + energy.variance.sqrt() * standard_normal(mean.shape, generator, mean)


@torch.no_grad()
def block_gibbs(
    energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, n_steps: int = 1
) -> Tensor:
    """Run ``n_steps`` sweeps h ~ p(h | z), z ~ p(z | h), which leave p(z) unchanged.

    Parameters
    ----------
    energy : GaussianBernoulliEnergy
    z : Tensor of shape (n, n_visible)
        Current state of each chain.
    generator : torch.Generator
    n_steps : int

    Returns
    -------
    Tensor of shape (n, n_visible)
    """
    for _ in range(n_steps):
        z = sample_visible(energy, sample_hidden(energy, z, generator), generator)
    return z


class BlockGibbs(Sampler):
    """Block Gibbs sweeps, which draw exactly from both conditional distributions.

    Parameters
    ----------
    n_steps : int, default=1
        Number of sweeps per transition.

    Examples
    --------
    >>> from skevae import GaussianBernoulliRBMPrior
    >>> from skevae.samplers import BlockGibbs
    >>> GaussianBernoulliRBMPrior(8, sampler=BlockGibbs(n_steps=5)).sampler
    BlockGibbs(n_steps=5)
    """

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        return block_gibbs(energy, z, generator)
