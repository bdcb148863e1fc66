"""Base of the estimates of ln Z in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from skevae.densities.base import Density
from skevae.posteriors.base import Posterior
from skevae.posteriors.draws import LatentDraws
from skevae.utils.ranks import ALONE, Ranks


class PartitionEstimate:
    """How a training step obtains ln Z.

    Attributes
    ----------
    needs_posterior : bool
        Whether ln Z is estimated from the densities of the posteriors' draws. A density cannot be
        trained alone by such an estimate.
    ranks : Ranks
        The processes that train together, among which Markov chains are divided.

    Parameters
    ----------
    density : Module with the interface of `skevae.densities.Density`
    generator : torch.Generator
    """

    needs_posterior: ClassVar[bool] = True
    ranks: Ranks = ALONE

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        self.density = density
        self.generator = generator

    def __call__(
        self, draws: LatentDraws, posterior: Posterior, log_weights: Tensor | None = None
    ) -> Tensor:
        """Estimate ln Z of a training step.

        Parameters
        ----------
        draws : LatentDraws
        posterior : Posterior
        log_weights : Tensor of shape (n_draws, n), optional
            Logarithms of the weights, not normalised, by which the objective averages the energy
            gradients of each row's draws; None if they are equal. Markov chains that start at the
            draws have to start at weighted ones.

        Returns
        -------
        Tensor, scalar, or (n,) for each row
        """
        raise NotImplementedError

    def refresh(self) -> None:
        """Do what is worth doing once an epoch."""

    def note(self, log_partition: float) -> None:
        """Accept a value of ln Z that was computed for another purpose."""

    def state(self) -> dict[str, Any]:
        """State from which another estimate of this kind can go on, on the CPU."""
        return {}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of another."""

    def divided(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a state for this rank, from those of ranks that were more or fewer."""
        return states[0]


class DensityPartition(PartitionEstimate):
    """Base of the estimates that need no posterior, so that a density can be trained alone."""

    needs_posterior = False

    def __call__(
        self, draws: LatentDraws, posterior: Posterior, log_weights: Tensor | None = None
    ) -> Tensor:
        return self.evaluate(draws.z.detach().flatten(0, 1))

    def evaluate(self, z: Tensor) -> Tensor:
        """Estimate ln Z at a step whose training data, or draws of the posteriors, are ``z``.

        Parameters
        ----------
        z : Tensor of shape (n, D)

        Returns
        -------
        Tensor, scalar
            Its gradient is that of ln Z or an estimate of it.
        """
        raise NotImplementedError


# Keeps the variance of an annealing base positive if all chains agree in a dimension.
MIN_BASE_VARIANCE = 1e-3
