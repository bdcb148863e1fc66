"""Markov chains that persist between parameter updates."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.samplers.base import Transition


class PersistentChains:
    """Markov chains that go on from where the last parameter update left them.

    The gradient of -ln Z is the mean energy gradient over the model; chains that persist while
    the parameters move slowly stay close to it (stochastic maximum likelihood, Tieleman 2008).

    Parameters
    ----------
    start : Tensor of shape (n_chains, n_visible)
        Copied.

    Attributes
    ----------
    state : Tensor of shape (n_chains, n_visible)
        Always the same memory, where training steps that are replayed find it.
    """

    def __init__(self, start: Tensor) -> None:
        self.state = start.clone()

    def advance(self, transition: Transition, generator: torch.Generator) -> Tensor:
        """Move every chain by one transition and return `state`."""
        return self.state.copy_(transition(self.state, generator))
