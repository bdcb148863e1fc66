"""What every sampler is: a Markov transition of an energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Transition = Callable[[Tensor, torch.Generator], Tensor]


class Sampler:
    """A Markov transition that leaves p(z), or nearly so p(z), unchanged.

    Parameters
    ----------
    n_steps : int
        Elementary steps of one transition.
    step_size : float
        Of Langevin steps, in units of each dimension's sigma.

    Attributes
    ----------
    acceptance_rate : float
        Share of the Metropolis tests passed so far; nan where there were none.
    """

    def __init__(self, n_steps: int = 1, step_size: float = 0.3) -> None:
        self.n_steps = n_steps
        self.step_size = step_size
        self._accepted: Tensor | None = None
        self._proposed = 0

    def __call__(self, energy: Any, z: Tensor, generator: torch.Generator) -> Tensor:
        """Make one transition of every chain: (n, n_visible) -> (n, n_visible)."""
        with torch.no_grad():
            for step in range(self.n_steps):
                z = self.step(energy, z, generator, step)
        return z

    def step(self, energy: Any, z: Tensor, generator: torch.Generator, index: int) -> Tensor:
        """Make elementary step number ``index`` of a transition."""
        raise NotImplementedError

    @property
    def acceptance_rate(self) -> float:
        return math.nan if self._accepted is None else float(self._accepted) / self._proposed

    def _metropolis(
        self, z: Tensor, proposal: Tensor, log_ratio: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Accept each row of the proposal with probability min(1, exp(log_ratio))."""
        uniform = torch.rand(
            log_ratio.shape, generator=generator, dtype=z.dtype, device=log_ratio.device
        )
        accept = uniform.log() < log_ratio
        if self._accepted is None:
            self._accepted = torch.zeros((), dtype=torch.int64, device=z.device)
        self._accepted += accept.sum()
        self._proposed += accept.numel()
        return torch.where(accept.unsqueeze(-1), proposal, z)
