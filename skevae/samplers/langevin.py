"""Langevin steps, plain and Metropolis-adjusted, on an energy or within Gibbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skevae.energies import SmoothEnergy
from skevae.samplers.base import Sampler
from skevae.samplers.gibbs import sample_hidden
from skevae.utils.random import standard_normal


class Langevin(Sampler):
    r"""Unadjusted Langevin steps, preconditioned by sigma.

    .. math::
        z' = z - \tfrac{\epsilon^2}{2} \sigma^2 \nabla E(z) + \epsilon \sigma \xi,
        \qquad \xi \sim N(0, I)

    It targets exp(-E) whatever the number of chains, up to a bias of order epsilon squared: the
    energy never sees a batch size, and noise and drift always keep this ratio. The energy is any
    `skevae.energies.SmoothEnergy`.

    Parameters
    ----------
    n_steps : int
    step_size : float
    n_scales : int
        The steps of a transition have ``step_size``, 1/2, 1/4, ... of it, this many in turn, for
        energies whose own scales are not known: some step always suits where a chain stands.
    """

    adjusted = False

    def __init__(self, n_steps: int = 1, step_size: float = 0.3, n_scales: int = 1) -> None:
        super().__init__(n_steps, step_size)
        self.n_scales = n_scales

    def step(
        self, energy: SmoothEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        step_size = self.step_size * 0.5 ** (index % self.n_scales)
        return self._langevin_step(
            z, energy.value_and_gradient, energy.variance, step_size, generator
        )

    def _langevin_step(
        self,
        z: Tensor,
        value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
        variance: Tensor,
        step_size: float,
        generator: torch.Generator,
    ) -> Tensor:
        drift = 0.5 * step_size**2 * variance
        spread = step_size * variance.sqrt()
        value, gradient = value_and_gradient(z)
        noise = standard_normal(z.shape, generator, z)
        proposal = z - drift * gradient + spread * noise
        if not self.adjusted:
            return proposal
        proposed_value, proposed_gradient = value_and_gradient(proposal)
        back = (z - proposal + drift * proposed_gradient) / spread
        log_ratio = value - proposed_value
        log_ratio = log_ratio + 0.5 * (noise.square() - back.square()).sum(-1)
        return self._metropolis(z, proposal, log_ratio, generator)


class MetropolisLangevin(Langevin):
    """Langevin steps with a Metropolis test (MALA; Roberts & Tweedie 1996): no bias left."""

    adjusted = True


class GibbsLangevin(Langevin):
    r"""Langevin within Gibbs (Liao et al. 2022): h ~ p(h | z), then Langevin steps on z given h.

    Its step sizes are annealed: over the n steps of a transition they fall linearly from
    (2 - 1/n) times ``step_size`` to ``step_size``.
    """

    def step(self, energy: Any, z: Tensor, generator: torch.Generator, index: int) -> Tensor:
        mean = energy.conditional_mean(sample_hidden(energy, z, generator))
        annealed = self.step_size * (2 - (index + 1) / self.n_steps)

        def value_and_gradient(y: Tensor) -> tuple[Tensor, Tensor]:
            gradient = (y - mean) / energy.variance
            return 0.5 * (gradient * (y - mean)).sum(-1), gradient

        return self._langevin_step(z, value_and_gradient, energy.variance, annealed, generator)


class MetropolisGibbsLangevin(GibbsLangevin):
    """`GibbsLangevin` with a Metropolis test of each step on the joint of z and h: no bias left."""

    adjusted = True
