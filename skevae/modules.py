"""The variational autoencoder and its training loss as torch sees them: composition only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae._random import make_generator, standard_normal
from skevae.evaluation import log_weights
from skevae.objectives import LatentDraws, PartitionEstimate, Reduction, negative_bound
from skevae.partition import log_mean_exp


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
        posterior: nn.Module,
        likelihood: nn.Module,
        density: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior
        self.likelihood = likelihood
        self.density = density

    def forward(self, x: Tensor, noise: Tensor) -> LatentDraws:
        """Draw latents for each row and evaluate all terms of the bounds.

        Parameters
        ----------
        x : Tensor of shape (n, n_features)
        noise : Tensor of shape (n_draws, n, D), or (n_draws, 1, D) to share it among rows
        """
        return self.draw(x, self.encoder(x), noise)

    def draw(self, x: Tensor, posterior_outputs: Tensor, noise: Tensor) -> LatentDraws:
        """Do as `forward` does, for rows that are encoded already."""
        z, log_posterior = self.posterior.draw(posterior_outputs, noise)
        log_likelihood = self.likelihood.log_density(x, self.decoder(z))
        energy = self.density.energy(z)
        return LatentDraws(log_likelihood, energy, log_posterior, z, posterior_outputs)


class TrainingLoss:
    """Minus the bound of a minibatch, with fresh draws at each call.

    Parameters
    ----------
    model : VAE
    partition : PartitionEstimate
    reduction : callable
        A value of `skevae.objectives.OBJECTIVES`.
    n_draws : int
        Latent draws for each row.
    kl_warmup : float
        Part of the training over which the weight of all terms but the reconstruction rises
        linearly from 0 to 1.
    rebinarize : bool
        Whether rows are probabilities, of which every visit draws a binary row.
    generator : torch.Generator
    """

    def __init__(
        self,
        model: VAE,
        partition: PartitionEstimate,
        reduction: Reduction,
        *,
        n_draws: int,
        kl_warmup: float,
        rebinarize: bool,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.partition = partition
        self.reduction = reduction
        self.n_draws = n_draws
        self.kl_warmup = kl_warmup
        self.rebinarize = rebinarize
        self.generator = generator

    def __call__(self, x: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate the loss and its terms at rows ``x``, ``progress`` of the way (0 to 1)."""
        if self.rebinarize:
            x = torch.bernoulli(x, generator=self.generator)
        shape = (self.n_draws, x.shape[0], self.model.density.n_latent)
        draws = self.model(x, standard_normal(shape, self.generator, x))
        log_partition = self.partition(draws, self.model.posterior)
        kl_weight = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        return negative_bound(draws, log_partition, self.reduction, kl_weight)


@torch.no_grad()
def held_out_bound(
    model: VAE, x: Tensor, *, n_draws: int, rows_at_once: int, rebinarize: bool, seed: int
) -> float:
    """Mean importance-weighted bound of rows with ln Z as good as it can be had, in nats.

    What training is watched by, whatever it maximises: the paper's estimate rises while the model
    falls. The noise is the same at each call, so that epochs compare.
    """
    generator = make_generator(seed, x.device)
    total = x.new_zeros(())
    for rows in x.split(rows_at_once):
        if rebinarize:
            rows = torch.bernoulli(rows, generator=generator)
        noise = standard_normal((n_draws, rows.shape[0], model.density.n_latent), generator, x)
        log_likelihood, log_ratio = log_weights(model, rows, noise, n_draws)
        total += log_mean_exp(log_likelihood + log_ratio).sum()
    return total.item() / x.shape[0] - model.density.quick_log_partition(generator)


@torch.no_grad()
def aggregated_moments(model: VAE, x: Tensor, rows_at_once: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each latent under the aggregated posterior of rows: (D,) each."""
    sums = [x.new_zeros(model.density.n_latent) for _ in range(2)]
    for rows in x.split(rows_at_once):
        outputs = model.encoder(rows)
        mean = model.posterior.mean(outputs)
        sums[0] += mean.sum(0)
        sums[1] += (mean.square() + model.posterior.variance(outputs)).sum(0)
    mean, square = (total / x.shape[0] for total in sums)
    return mean, square - mean.square()
