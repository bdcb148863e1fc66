"""The variational autoencoder and its training loss as torch sees them: composition only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae._random import binary, standard_normal
from skevae.densities import Density
from skevae.likelihoods import Likelihood
from skevae.networks import evaluate
from skevae.objectives import LatentDraws, Objective, PartitionEstimate, negative_bound
from skevae.posteriors import Posterior


class VAE(nn.Module):
    """Encoder, posterior, latent density, decoder and likelihood.

    Parameters
    ----------
    encoder : Module, (..., n_features) -> (..., posterior outputs)
    decoder : Module, (..., D) -> (..., likelihood outputs)
    posterior : Module of `skevae.posteriors`
    likelihood : Module of `skevae.likelihoods`
    density : Module with the interface of `skevae.densities.Density`
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        posterior: Posterior,
        likelihood: Likelihood,
        density: Density,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self.likelihood = likelihood
        self.density = density

    def forward(
        self, x: Tensor, noise: Tensor, precision: torch.dtype | None = None
    ) -> LatentDraws:
        """Draw latents for each row and evaluate all terms of the bounds.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        noise : Tensor of shape (n_draws, n, D), or (n_draws, 1, D) to share it among rows
        precision : torch.dtype, optional
            Of the matrix products of encoder and decoder; all else is in the dtype of x.
        """
        return self.draw(x, evaluate(self.encoder, x, precision), noise, precision)

    def draw(
        self,
        x: Tensor,
        posterior_outputs: Tensor,
        noise: Tensor,
        precision: torch.dtype | None = None,
    ) -> LatentDraws:
        """Do as `forward` does, for rows that are encoded already."""
        z, log_posterior = self.posterior.draw(posterior_outputs, noise)
        log_likelihood = self.likelihood.log_density(x, evaluate(self.decoder, z, precision))
        energy = self.density.energy(z)
        return LatentDraws(log_likelihood, energy, log_posterior, z, posterior_outputs)


class TrainingLoss:
    """Minus the bound of a minibatch, with fresh draws at each call.

    Parameters
    ----------
    model : VAE
    partition : PartitionEstimate
    objective : Objective
        A value of `skevae.objectives.OBJECTIVES`.
    n_draws : int
        Latent draws for each row.
    kl_warmup : float
        Part of the training over which the weight of all terms but the reconstruction rises
        linearly from 0 to 1.
    rebinarize : bool
        Whether rows are probabilities, of which every visit draws a binary row.
    generator : torch.Generator
    precision : torch.dtype, optional
        Of the matrix products of encoder and decoder; None is the dtype of the rows.

    Raises
    ------
    ValueError
        If the objective cannot be trained on with this posterior or this partition.
    """

    def __init__(
        self,
        model: VAE,
        partition: PartitionEstimate,
        objective: Objective,
        *,
        n_draws: int,
        kl_warmup: float,
        rebinarize: bool,
        generator: torch.Generator,
        precision: torch.dtype | None = None,
    ) -> None:
        objective.check(model.posterior, partition)
        self.model = model
        self.partition = partition
        self.objective = objective
        self.n_draws = n_draws
        self.kl_warmup = kl_warmup
        self.rebinarize = rebinarize
        self.precision = precision
        self.generator = generator

    def __call__(self, x: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate the loss and its terms at rows ``x``, ``progress`` of the way (0 to 1)."""
        if self.rebinarize:
            x = binary(x, self.generator)
        shape = (self.n_draws, x.shape[0], self.model.density.n_latent)
        draws = self.model(x, standard_normal(shape, self.generator, x), self.precision)
        log_partition = self.partition(draws, self.model.posterior)
        kl_weight = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        draws = self.objective.reparametrize(draws, self.model.posterior, kl_weight)
        return negative_bound(draws, log_partition, self.objective, kl_weight)
