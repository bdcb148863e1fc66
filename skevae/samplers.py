"""Samplers: block Gibbs, persistent chains, and exact independent draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skevae._random import standard_normal
from skevae.energies import GaussianBernoulliEnergy
from skevae.ising import IsingModel

Transition = Callable[[Tensor, torch.Generator], Tensor]


def sample_hidden(energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator) -> Tensor:
    """Draw h from p(h | z): (n, n_visible) -> (n, n_hidden)."""
    return torch.bernoulli(energy.hidden_logits(z).sigmoid_(), generator=generator)


def sample_visible(
    energy: GaussianBernoulliEnergy, h: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw z from p(z | h): (n, n_hidden) -> (n, n_visible)."""
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
        Where each chain stands.
    generator : torch.Generator
    n_steps : int

    Returns
    -------
    Tensor of shape (n, n_visible)
    """
    for _ in range(n_steps):
        z = sample_visible(energy, sample_hidden(energy, z, generator), generator)
    return z


@torch.no_grad()
def exact_sample(
    energy: GaussianBernoulliEnergy, n_samples: int, generator: torch.Generator
) -> Tensor:
    """Draw independent rows from p(z): h from the tables of its Ising model, then z given h.

    The tables are made in float64, whatever the dtype of the energy.
    """
    bias, coupling, _ = energy.to(torch.float64).hidden_machine()
    h = IsingModel(bias, coupling).sample(n_samples, generator)
    return sample_visible(energy, h.to(energy.weight.dtype), generator)


class PersistentChains:
    """Markov chains that go on from where the last parameter update left them.

    The gradient of -ln Z is the mean energy gradient over the model; chains that persist while
    the parameters move slowly stay close to it (stochastic maximum likelihood, Tieleman 2008).

    Parameters
    ----------
    start : Tensor of shape (n_chains, n_visible)
    """

    def __init__(self, start: Tensor) -> None:
        self.state = start

    def advance(self, transition: Transition, generator: torch.Generator) -> Tensor:
        """Move every chain by one transition and return the new states."""
        self.state = transition(self.state, generator)
        return self.state
