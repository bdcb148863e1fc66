"""Base class of the posteriors q(z | x): reparametrised draws and their log-density."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Posterior(nn.Module):
    """Base class of the posteriors. The encoder returns its ``outputs``, k numbers per latent.

    Parameters
    ----------
    n_latent : int
        D.
    generator : torch.Generator, optional
        Generator of the initial weights, if there are any.

    Attributes
    ----------
    outputs_per_latent : int
        k.
    width : int
        Number of values that `draw` holds at a time for each (draw, row).
    has_log_density : bool
        Whether `log_density` is cheap enough for every training step. For flows it is not, because
        they are inverted one latent at a time.
    """

    outputs_per_latent: int
    has_log_density = True

    def __init__(self, n_latent: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.width = 2 * n_latent

    def mean(self, outputs: Tensor) -> Tensor:
        """E[z | x]: (..., k D) -> (..., D)."""
        raise NotImplementedError

    def variance(self, outputs: Tensor) -> Tensor:
        """Posterior variance of each latent: (..., k D) -> (..., D)."""
        raise NotImplementedError

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparametrise standard normal noise.

        Parameters
        ----------
        outputs : Tensor of shape (n, k D)
        noise : Tensor of shape (n_draws, n, D), or (n_draws, 1, D) to share it among rows

        Returns
        -------
        z : Tensor of shape (n_draws, n, D)
        log_density : Tensor of shape (n_draws, n)
            ln q(z | x) in nats.
        """
        raise NotImplementedError

    def invert(self, z: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise that `draw` maps to the given latents.

        Parameters
        ----------
        z : Tensor of shape (n_draws, n, D), or (n_draws, 1, D) if rows share them
        outputs : Tensor of shape (n, k D)

        Returns
        -------
        noise : Tensor of shape (n_draws, n, D)
        log_density : Tensor of shape (n_draws, n)
            ln q(z | x) in nats.
        """
        raise NotImplementedError

    def log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        """ln q(z | x) of given latents: (n_draws, n, D), (n, k D) -> (n_draws, n)."""
        return self.invert(z, outputs)[1]

    def pairwise_log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        """ln q(z_i | x_j) for all pairs: (m, D), (n, k D) -> (m, n)."""
        return self.log_density(z[:, None], outputs)
