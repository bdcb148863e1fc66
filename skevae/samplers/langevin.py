"""Langevin steps for any smooth energy, unadjusted and Metropolis-adjusted."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor

from skevae.energies import SmoothEnergy
from skevae.samplers.base import Sampler
from skevae.utils.random import standard_normal


class LangevinSteps(Sampler):
    """Base class of the samplers with Langevin steps.

    Attributes
    ----------
    adjusted : bool
        Whether each step is followed by a Metropolis test, which removes its bias.
    """

    adjusted: ClassVar[bool] = False

    _parameter_constraints: dict[str, list[Any]] = {
        **Sampler._parameter_constraints,
        "step_size": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, n_steps: int = 1, step_size: float = 0.3) -> None:
        super().__init__(n_steps)
        self.step_size = step_size

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


class Langevin(LangevinSteps):
    r"""Unadjusted Langevin steps, preconditioned by sigma.

    .. math::
        z' = z - \tfrac{\epsilon^2}{2} \sigma^2 \nabla E(z) + \epsilon \sigma \xi,
        \qquad \xi \sim N(0, I)

    The stationary density is proportional to exp(-E) up to a bias of order epsilon squared. It does
    not depend on the number of chains: the energy of a row is never divided by a batch size. The
    energy can be any `skevae.energies.SmoothEnergy`.

    Parameters
    ----------
    n_steps : int, default=1
        Number of elementary steps per transition.
    step_size : float, default=0.3
        Step size in units of sigma.
    n_scales : int, default=1
        The steps of a transition cycle through this many sizes: ``step_size``, 1/2 of it, 1/4 of
        it, and so on. Use it for energies with unknown scales.

    Examples
    --------
    Chains of a fitted prior, which start at noise:

    >>> from sklearn.datasets import load_iris
    >>> from skevae import NeuralPrior
    >>> from skevae.samplers import Langevin
    >>> prior = NeuralPrior(sampler=Langevin(n_steps=5, n_scales=3), max_iter=2, random_state=0)
    >>> prior.fit(load_iris().data).run_chains(3, n_steps=10, random_state=0).samples.shape
    (10, 3, 4)
    """

    needs_only_gradient = True

    _parameter_constraints: dict[str, list[Any]] = {
        **LangevinSteps._parameter_constraints,
        "n_scales": [Interval(Integral, 1, None, closed="left")],
    }

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


class MetropolisLangevin(Langevin):
    """Langevin steps with a Metropolis test, without bias (MALA; Roberts & Tweedie 1996).

    Examples
    --------
    >>> from skevae import NeuralPrior
    >>> from skevae.samplers import MetropolisLangevin
    >>> NeuralPrior(sampler=MetropolisLangevin(n_steps=20)).sampler
    MetropolisLangevin(n_steps=20)
    """

    adjusted = True
