"""The variational autoencoder as a torch module, composed of its parts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae.densities.base import Density
from skevae.likelihoods.base import Likelihood
from skevae.likelihoods.observed import Observed
from skevae.networks.inputs import Inputs, TableEncoder
from skevae.networks.precision import evaluate
from skevae.posteriors.base import Posterior
from skevae.posteriors.draws import LatentDraws


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

    encoder: nn.Module
    decoder: nn.Module
    posterior: Posterior
    likelihood: Likelihood
    density: Density

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
            Precision of the matrix products of encoder and decoder; all else is in the dtype of x.
        """
        return self.draw(x, evaluate(self.encoder, x, precision), noise, precision)

    def draw(
        self,
        x: Tensor,
        posterior_outputs: Tensor,
        noise: Tensor,
        precision: torch.dtype | None = None,
    ) -> LatentDraws:
        """As `forward`, for rows that are already encoded."""
        z, log_posterior = self.posterior.draw(posterior_outputs, noise)
        log_likelihood = self.likelihood.log_density(x, evaluate(self.decoder, z, precision))
        energy = self.density.energy(z)
        return LatentDraws(log_likelihood, energy, log_posterior, z, posterior_outputs)


def accepting_holes(model: VAE, fill: Tensor) -> VAE:
    """Return a model with the same modules that accepts rows with missing entries.

    Parameters
    ----------
    model : VAE
    fill : Tensor of shape (n_features,)
        Values that replace missing numbers in the input of the encoder, if the model was built for
        rows without missing entries.
    """
    encoder, likelihood = model.encoder, model.likelihood
    if isinstance(likelihood, Observed):
        return model
    if not isinstance(encoder, TableEncoder):
        encoder = TableEncoder(Inputs(fill, [0] * len(fill), with_mask=False), encoder)
    made = VAE(encoder, model.decoder, model.posterior, Observed(likelihood), model.density)
    return made.train(model.training).to(next(model.parameters()))
