"""Base classes of the estimates of ln Z in training."""

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
    """Estimate of ln Z in a training step.

    Attributes
    ----------
    needs_posterior : bool
        Whether ln Z is estimated from the densities of draws from the posteriors. Such an estimate
        cannot be used to train a density on its own.
    starts_at_rows : bool
        Whether Markov chains start at the data or draws. For weighted rows, these must have been
        resampled by the weights.
    is_expensive : bool
        Whether it takes more time than other parts of a step, unless these are large.
    ranks : Ranks
        The processes that train together. Markov chains are divided among them.

    Parameters
    ----------
    density : Module with the interface of `skevae.densities.Density`
    generator : torch.Generator
    """

    needs_posterior: ClassVar[bool] = True
    starts_at_rows: ClassVar[bool] = False
    is_expensive: bool = False
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
            Unnormalised log-weights with which the objective averages the energy gradients of the
            draws of each row; None if they are equal. Markov chains that start at the draws must
            start at weighted draws.

        Returns
        -------
        Tensor, a scalar, or (n,) with one value per row
        """
        raise NotImplementedError

    def refresh(self) -> None:
        """Update what is computed once per epoch."""

    def note(self, log_partition: float) -> None:
        """Receive a value of ln Z that was computed for another purpose."""

    def state(self) -> dict[str, Any]:
        """State, on the CPU, from which another estimate of this kind can continue."""
        return {}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from the `state` of another estimate."""

    def divided(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a state for this rank from the states of another number of ranks."""
        return states[0]


class DensityPartition(PartitionEstimate):
    """Base class of the estimates that need no posterior, for training a density on its own."""

    needs_posterior = False

    def __call__(
        self, draws: LatentDraws, posterior: Posterior, log_weights: Tensor | None = None
    ) -> Tensor:
        return self.evaluate(draws.z.detach().flatten(0, 1))

    def evaluate(self, z: Tensor) -> Tensor:
        """Estimate ln Z in a step, where ``z`` are the training data or draws from the posteriors.

        Parameters
        ----------
        z : Tensor of shape (n, D)

        Returns
        -------
        Tensor, scalar
            Its gradient is that of ln Z or an estimate of it.
        """
        raise NotImplementedError


# Keeps the variance of an annealing base positive if all chains are equal in a dimension.
MIN_BASE_VARIANCE = 1e-3
