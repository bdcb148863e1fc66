"""Markov chains: persistent chains in training, and runs for a fixed model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, torch.Generator], Tensor]


class PersistentChains:
    """Markov chains that continue from their last states after a parameter update.

    The gradient of -ln Z is the mean energy gradient over the model distribution. If the parameters
    change slowly, persistent chains stay close to this distribution (stochastic maximum likelihood,
    Tieleman 2008).

    Parameters
    ----------
    start : Tensor of shape (n_chains, n_visible)
        Initial states, which are copied.

    Attributes
    ----------
    state : Tensor of shape (n_chains, n_visible)
        Always in the same memory, because steps recorded as a CUDA graph read and write it.
    """

    def __init__(self, start: Tensor) -> None:
        self.state = start.clone()

    def advance(self, transition: Step, generator: torch.Generator) -> Tensor:
        """Move every chain by one transition and return `state`."""
        return self.state.copy_(transition(self.state, generator))


@torch.no_grad()
def run_chains(
    transition: Step, z: Tensor, generator: torch.Generator, *, n_steps: int, burn_in: int = 0
) -> Tensor:
    """Run Markov chains in parallel and keep their states.

    Parameters
    ----------
    transition : callable (z, generator) -> z
    z : Tensor of shape (n_chains, n_visible)
        Starting points.
    generator : torch.Generator
    n_steps : int
        Number of transitions that are kept.
    burn_in : int, default=0
        Number of transitions before them.

    Returns
    -------
    Tensor of shape (n_steps, n_chains, n_visible)
    """
    kept = []
    for index in range(burn_in + n_steps):
        z = transition(z, generator)
        if index >= burn_in:
            kept.append(z)
    return torch.stack(kept)
