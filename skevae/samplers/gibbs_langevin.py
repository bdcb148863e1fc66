"""Langevin steps within Gibbs, plain and Metropolis-adjusted."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.energies import GaussianBernoulliEnergy
from skevae.samplers.gibbs import sample_hidden
from skevae.samplers.langevin import LangevinSteps


class GibbsLangevin(LangevinSteps):
    r"""Langevin within Gibbs (Liao et al. 2022): h ~ p(h | z), then a Langevin step on z given h.

    Step sizes are annealed: over the n steps of a transition, they decrease linearly from (2 - 1/n)
    times ``step_size`` to ``step_size``.

    Parameters
    ----------
    n_steps : int, default=1
        Number of elementary steps per transition.
    step_size : float, default=0.3
        Step size in units of sigma.

    Examples
    --------
    >>> from skevae import GaussianBernoulliRBMPrior
    >>> from skevae.samplers import GibbsLangevin
    >>> GaussianBernoulliRBMPrior(8, sampler=GibbsLangevin(n_steps=5, step_size=0.1)).sampler
    GibbsLangevin(n_steps=5, step_size=0.1)
    """

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        mean = energy.conditional_mean(sample_hidden(energy, z, generator))
        annealed = self.step_size * (2 - (index + 1) / self.n_steps)

        def value_and_gradient(y: Tensor) -> tuple[Tensor, Tensor]:
            gradient = (y - mean) / energy.variance
            return 0.5 * (gradient * (y - mean)).sum(-1), gradient

        return self._langevin_step(z, value_and_gradient, energy.variance, annealed, generator)


class MetropolisGibbsLangevin(GibbsLangevin):
    """`GibbsLangevin` with a Metropolis test for each step on p(z | h), which removes the bias.

    Examples
    --------
    >>> from skevae import GaussianBernoulliRBMPrior
    >>> from skevae.samplers import MetropolisGibbsLangevin
    >>> GaussianBernoulliRBMPrior(8, sampler=MetropolisGibbsLangevin(n_steps=5)).sampler
    MetropolisGibbsLangevin(n_steps=5)
    """

    adjusted = True
