"""A mixture of diagonal Gaussians as a latent density."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae.densities.base import NormalizedDensity
from skevae.energies import pairwise_normal_log_density
from skevae.samplers.exact import draw_components
from skevae.utils.clusters import spread_centres
from skevae.utils.random import standard_normal

# Keeps the logarithm of an initial variance finite if rows do not vary.
MIN_INITIAL_VARIANCE = 1e-3


class GaussianMixtureDensity(NormalizedDensity):
    r"""p(z) = sum_k w_k N(z; m_k, diag(s_k^2)), all learned.

    Parameters
    ----------
    n_latent, n_components : int
        D and K.
    generator : torch.Generator
        Generator of the initial means.
    min_scale : float
        Lower bound of every s. Without it, the likelihood of a component on a single row is
        unbounded.
    """

    def __init__(
        self, n_latent: int, n_components: int, *, generator: torch.Generator, min_scale: float
    ) -> None:
        super().__init__(n_latent)
        self.min_scale = min_scale
        self.weight_logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(torch.randn((n_components, n_latent), generator=generator))
        self.log_variances = nn.Parameter(torch.zeros(n_components, n_latent))

    def weights(self) -> Tensor:
        """w, (K,)."""
        return self.weight_logits.softmax(0)

    def variances(self) -> Tensor:
        """s squared, (K, D)."""
        return self.min_scale**2 + self.log_variances.exp()

    def log_density(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, self.n_latent)
        parts = pairwise_normal_log_density(flat, self.means, self.variances().sqrt())
        return (parts + self.weight_logits.log_softmax(0)).logsumexp(1).reshape(z.shape[:-1])

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        k = draw_components(self.weights(), n_samples, generator)
        noise = standard_normal((n_samples, self.n_latent), generator, self.anchor)
        return self.means[k] + self.variances()[k].sqrt() * noise

    @torch.no_grad()
    def initialise(self, rows: Tensor, generator: torch.Generator) -> None:
        centres, variance = spread_centres(rows, self.means.shape[0], generator)
        self.means.copy_(centres)
        self.log_variances.copy_(variance.clamp(min=MIN_INITIAL_VARIANCE).log())
