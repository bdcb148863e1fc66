"""Base class of the samplers: Markov transitions of an energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar, Self

import torch
from sklearn.base import clone
from sklearn.utils._param_validation import Interval
from torch import Tensor

from skevae.utils.documentation import DocumentedEstimator


class Sampler(DocumentedEstimator):
    """A Markov transition that leaves p(z) unchanged, exactly or approximately.

    A subclass defines an elementary `step`. Its parameters are those of its constructor, with
    ``get_params`` and ``set_params`` as in scikit-learn, and their constraints are in
    ``_parameter_constraints``. Anything else that it stores between calls is its `state`; a clone
    only has the parameters.

    Parameters
    ----------
    n_steps : int, default=1
        Number of elementary steps per transition.

    Attributes
    ----------
    needs_only_gradient : bool
        Whether it supports every `skevae.energies.SmoothEnergy`, not only Gaussian-Bernoulli
        energies.
    needs_exact_tables : bool
        Whether a step enumerates the 2^H configurations of the hidden units.
    acceptance_rate : float
        Fraction of accepted Metropolis proposals so far; nan for a sampler without Metropolis
        tests.

    Examples
    --------
    A random walk with Metropolis tests:

    >>> import torch
    >>> from skevae.energies import GaussianBernoulliEnergy
    >>> from skevae.samplers import Sampler
    >>> class RandomWalk(Sampler):
    ...     needs_only_gradient = True
    ...
    ...     def step(self, energy, z, generator, index):
    ...         proposal = z + torch.randn(z.shape, generator=generator)
    ...         return self._metropolis(z, proposal, energy(z) - energy(proposal), generator)
    >>> energy = GaussianBernoulliEnergy(
    ...     weight=torch.ones(2, 3),
    ...     hidden_bias=torch.zeros(3),
    ...     visible_mean=torch.zeros(2),
    ...     variance=torch.ones(2),
    ... )
    >>> sampler = RandomWalk(n_steps=10)
    >>> z = sampler(energy, torch.zeros(100, 2), torch.Generator().manual_seed(0))
    >>> 0.3 < sampler.acceptance_rate < 0.9
    True
    """

    needs_only_gradient: ClassVar[bool] = False
    needs_exact_tables: ClassVar[bool] = False

    _documented_in = "skevae.samplers"
    _parameter_constraints: dict[str, list[Any]] = {
        "n_steps": [Interval(Integral, 1, None, closed="left")]
    }
    _accepted: Tensor | None = None
    _proposed = 0

    def __init__(self, n_steps: int = 1) -> None:
        self.n_steps = n_steps

    def __call__(self, energy: Any, z: Tensor, generator: torch.Generator) -> Tensor:
        """Make one transition of every chain: (n, n_visible) -> (n, n_visible)."""
        with torch.no_grad():
            for index in range(self.n_steps):
                z = self.step(energy, z, generator, index)
        return z

    def step(self, energy: Any, z: Tensor, generator: torch.Generator, index: int) -> Tensor:
        """Make elementary step number ``index`` of a transition."""
        raise NotImplementedError

    def lengthened(self, n_steps: int) -> Self:
        """Return a sampler without state, with ``n_steps`` elementary steps per transition."""
        return clone(self).set_params(n_steps=n_steps)

    def state(self) -> dict[str, Tensor]:
        """Tensors, on the CPU, from which another sampler of this kind can continue."""
        return {}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of another."""

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


class Transition:
    """A Markov step (z, generator) -> z of a density, whose parameters may change between calls."""

    def __call__(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Make one transition of every chain: (n, n_visible) -> (n, n_visible)."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Tensors, on the CPU, from which another transition of this kind can continue."""
        return {}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state` of another."""


class SamplerTransition(Transition):
    """The transition of a sampler.

    Parameters
    ----------
    sampler : Sampler
    energy : callable () -> energy
        Returns the energy at the current parameters.
    """

    def __init__(self, sampler: Sampler, energy: Callable[[], Any]) -> None:
        self.sampler = sampler
        self.energy = energy

    def __call__(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return self.sampler(self.energy(), z, generator)

    def state(self) -> dict[str, Tensor]:
        return self.sampler.state()

    def resume(self, state: dict[str, Tensor]) -> None:
        self.sampler.resume(state)
