"""Parallel tempering: replicas at several temperatures that exchange states."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from skevae.energies import AnnealingPath, GaussianBernoulliEnergy
from skevae.samplers.base import Sampler
from skevae.samplers.gibbs import block_gibbs

# Number of sweeps of a tempered replica before its first exchange.
RELAXATION_SWEEPS = 100


class ParallelTempering(Sampler):
    """Block Gibbs at several temperatures with exchanges of states, to cross between modes.

    The replicas are at points of a path from a broad Gaussian with free hidden units, which covers
    all modes, to the target (Swendsen & Wang 1986; Geyer 1991). One elementary step consists of a
    sweep of all replicas and exchanges between neighbours.

    Parameters
    ----------
    n_steps : int, default=1
        Number of elementary steps per transition.
    n_replicas : int, default=12
        Number of temperatures, including the target; at least 2.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import GaussianBernoulliRBMPrior
    >>> from skevae.samplers import ParallelTempering
    >>> sampler = ParallelTempering(n_replicas=4)
    >>> prior = GaussianBernoulliRBMPrior(8, partition="persistent", sampler=sampler, max_iter=2)
    >>> prior.fit(load_iris().data).run_chains(3, n_steps=10, random_state=0).samples.shape
    (10, 3, 4)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        **Sampler._parameter_constraints,
        "n_replicas": [Interval(Integral, 2, None, closed="left")],
    }
    _replicas: Tensor | None = None  # (n_replicas, n, n_visible)

    def __init__(self, n_steps: int = 1, n_replicas: int = 12) -> None:
        super().__init__(n_steps)
        self.n_replicas = n_replicas

    @property
    def betas(self) -> list[float]:
        """Inverse temperatures, from 0 to 1."""
        return [k / (self.n_replicas - 1) for k in range(self.n_replicas)]

    def state(self) -> dict[str, Tensor]:
        return {} if self._replicas is None else {"replicas": self._replicas.cpu().clone()}

    def resume(self, state: dict[str, Tensor]) -> None:
        self._replicas = state["replicas"].clone() if state else None

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        path, betas = self._path(energy), self.betas
        if self._replicas is None or self._replicas.shape != (len(betas), *z.shape):
            # Replicas are first equilibrated without exchanges, because the initial states of the
            # hot ones would distort the target.
            alone = [block_gibbs(path.at(beta), z, generator, RELAXATION_SWEEPS) for beta in betas]
            self._replicas = torch.stack(alone)
        self._replicas = self._replicas.to(z)  # a resumed state is on the CPU
        replicas = [*self._replicas[:-1], z]
        replicas = [
            block_gibbs(path.at(beta), replica, generator)
            for beta, replica in zip(betas, replicas, strict=True)
        ]
        for low in range(len(betas) - 1):
            replicas[low : low + 2] = self._exchange(
                path, replicas[low : low + 2], betas[low : low + 2], generator
            )
        self._replicas.copy_(torch.stack(replicas))
        return replicas[-1]

    @staticmethod
    def _path(energy: GaussianBernoulliEnergy) -> AnnealingPath:
        """Path from a Gaussian with the moments of z for independent fair hidden units."""
        centre = energy.conditional_mean(torch.full_like(energy.hidden_bias, 0.5))
        variance = energy.variance + 0.25 * energy.weight.square().sum(1)
        return AnnealingPath(energy, centre, variance)

    def _exchange(
        self,
        path: AnnealingPath,
        pair: list[Tensor],
        betas: list[float],
        generator: torch.Generator,
    ) -> list[Tensor]:
        """Propose for each chain that two neighbours exchange their states."""
        (hot, cold), (beta_hot, beta_cold) = pair, betas
        log_ratio = path.log_increment(hot, beta_hot, beta_cold)
        log_ratio = log_ratio + path.log_increment(cold, beta_cold, beta_hot)
        present = torch.cat([hot, cold], dim=-1)
        swapped = torch.cat([cold, hot], dim=-1)
        return list(self._metropolis(present, swapped, log_ratio, generator).chunk(2, dim=-1))
