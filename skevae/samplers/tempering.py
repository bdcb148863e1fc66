"""Parallel tempering: replicas at several temperatures that exchange states."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.energies import AnnealingPath, GaussianBernoulliEnergy
from skevae.samplers.base import Sampler
from skevae.samplers.gibbs import block_gibbs

# Sweeps that a tempered replica makes alone before it takes part in exchanges.
RELAXATION_SWEEPS = 100


class ParallelTempering(Sampler):
    """Block Gibbs at several temperatures that exchange states, to cross between modes.

    Replicas stand on a path from a broad Gaussian with free hidden units, where every mode is
    reached at once, to the target (Swendsen & Wang 1986; Geyer 1991). A transition makes
    ``n_steps`` rounds of a sweep of all replicas and exchanges between neighbours.

    Parameters
    ----------
    n_steps : int
    step_size : float
        Not used.
    n_replicas : int
        Temperatures, target included.
    """

    def __init__(self, n_steps: int = 1, step_size: float = 0.3, n_replicas: int = 12) -> None:
        super().__init__(n_steps, step_size)
        self.betas = [k / (n_replicas - 1) for k in range(n_replicas)]
        self._replicas: Tensor | None = None  # (n_replicas, n, n_visible)

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        path = self._path(energy)
        if self._replicas is None or self._replicas[0].shape != z.shape:
            # Nothing is exchanged before each replica is at home at its own temperature, or what
            # the hot ones had not yet forgotten would distort the target.
            at_home = [
                block_gibbs(path.at(beta), z, generator, RELAXATION_SWEEPS) for beta in self.betas
            ]
            self._replicas = torch.stack(at_home)
        replicas = [*self._replicas[:-1], z]
        replicas = [
            block_gibbs(path.at(beta), replica, generator)
            for beta, replica in zip(self.betas, replicas, strict=True)
        ]
        for low in range(len(self.betas) - 1):
            replicas[low : low + 2] = self._exchange(path, replicas, low, generator)
        self._replicas.copy_(torch.stack(replicas))
        return replicas[-1]

    @staticmethod
    def _path(energy: GaussianBernoulliEnergy) -> AnnealingPath:
        """From a Gaussian as broad as the mixture of all hidden configurations can be."""
        centre = energy.conditional_mean(torch.full_like(energy.hidden_bias, 0.5))
        variance = energy.variance + 0.25 * energy.weight.square().sum(1)
        return AnnealingPath(energy, centre, variance)

    def _exchange(
        self, path: AnnealingPath, replicas: list[Tensor], low: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Propose that neighbours change places, chain by chain."""
        cold, hot = replicas[low + 1], replicas[low]
        beta_hot, beta_cold = self.betas[low : low + 2]
        log_ratio = path.log_increment(hot, beta_hot, beta_cold)
        log_ratio = log_ratio + path.log_increment(cold, beta_cold, beta_hot)
        pair = torch.cat([hot, cold], dim=-1)
        swapped = torch.cat([cold, hot], dim=-1)
        return list(self._metropolis(pair, swapped, log_ratio, generator).chunk(2, dim=-1))
