"""The loss of a minibatch: minus its bound, with new draws."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.partitions.base import PartitionEstimate
from skevae.posteriors.draws import LatentDraws
from skevae.training.objectives import Objective, negative_bound
from skevae.utils.random import standard_normal
from skevae.utils.weights import by_weight, unpacked
from skevae.vae import VAE


class TrainingLoss:
    """Minus the bound of a minibatch, with new draws in each call.

    Parameters
    ----------
    model : VAE
    partition : PartitionEstimate
    objective : Objective
        A value of `skevae.training.OBJECTIVES`.
    n_draws : int
        Number of latent draws for each row.
    kl_warmup : float
        Fraction of training during which the weight of all terms except the reconstruction
        increases linearly from 0 to 1.
    mask_rate : float
        Fraction of the entries that are hidden at random in each step.
    weighted : bool
        Whether the last column of the rows holds weights.
    generator : torch.Generator
    precision : torch.dtype, optional
        Precision of the matrix products of encoder and decoder; None is the dtype of the rows.

    Raises
    ------
    ValueError
        If the objective does not support this posterior or this partition.
    """

    def __init__(
        self,
        model: VAE,
        partition: PartitionEstimate,
        objective: Objective,
        *,
        n_draws: int,
        kl_warmup: float,
        mask_rate: float = 0.0,
        weighted: bool = False,
        generator: torch.Generator,
        precision: torch.dtype | None = None,
    ) -> None:
        objective.check(model.posterior, partition)
        self.model = model
        self.partition = partition
        self.objective = objective
        self.n_draws = n_draws
        self.kl_warmup = kl_warmup
        self.mask_rate = mask_rate
        self.weighted = weighted
        self.precision = precision
        self.generator = generator

    def __call__(self, x: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate the loss and its terms for rows ``x``, at ``progress`` (0 to 1) of training."""
        x, weight = unpacked(x, self.weighted)
        x = self.model.likelihood.training_rows(x, self.generator)
        if self.mask_rate:
            uniform = torch.rand(x.shape, generator=self.generator, device=x.device)
            x = x.masked_fill(uniform < self.mask_rate, torch.nan)
        shape = (self.n_draws, x.shape[0], self.model.density.n_latent)
        draws = self.model(x, standard_normal(shape, self.generator, x), self.precision)
        kl_weight = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        log_weights = self.objective.draw_weights(draws, kl_weight)
        log_partition = self._log_partition(draws, log_weights, weight)
        draws = self.objective.reparametrize(draws, self.model.posterior, kl_weight)
        return negative_bound(draws, log_partition, self.objective, kl_weight, weight)

    def _log_partition(
        self, draws: LatentDraws, log_weights: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        if weight is not None and self.partition.starts_at_rows:
            rows = by_weight(weight, len(weight), self.generator)
            draws = draws._replace(z=draws.z[:, rows])
            log_weights = None if log_weights is None else log_weights[:, rows]
        return self.partition(draws, self.model.posterior, log_weights)
