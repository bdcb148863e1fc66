"""The density of the VampPrior: a mixture of the posteriors of an autoencoder."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from skevae.densities.base import NormalizedDensity
from skevae.likelihoods.base import Likelihood
from skevae.networks.scales import inverse_positive
from skevae.posteriors.base import Posterior
from skevae.posteriors.normal import DiagonalNormal
from skevae.samplers.exact import draw_components
from skevae.utils.clusters import spread_centres
from skevae.utils.random import standard_normal

# Keeps an initial scale positive if rows do not vary.
MIN_INITIAL_SCALE = 0.03

# Standard deviation of the noise that separates pseudo-inputs initialised at the same row.
JITTER = 0.01


class SharedScale(nn.Module):
    """The identity as an encoder: N(x, diag(s^2)), with one learned scale for all x.

    Parameters
    ----------
    n_latent : int
    """

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.raw_scale = nn.Parameter(torch.zeros(n_latent))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.raw_scale.expand_as(x)], dim=-1)


class VampDensity(NormalizedDensity):
    r"""p(z) = sum_k w_k q(z | u_k), with learned pseudo-inputs u_k.

    Inside an autoencoder (`attach`), q is its posterior and pseudo-inputs are in the space of rows:
    the prior has the form of an aggregated posterior. On its own, the encoder is the identity and
    q(z | u) = N(u, diag(s^2)) with one learned scale.

    Parameters
    ----------
    n_latent, n_components : int
        D and K.
    generator : torch.Generator
        Generator of the initial pseudo-inputs.
    learn_weights : bool
        Whether w is learned; otherwise it is 1/K.
    """

    def __init__(
        self,
        n_latent: int,
        n_components: int,
        *,
        generator: torch.Generator,
        learn_weights: bool = False,
    ) -> None:
        super().__init__(n_latent)
        self.weight_logits = nn.Parameter(
            torch.zeros(n_components), requires_grad=bool(learn_weights)
        )
        self.pseudo_inputs = nn.Parameter(
            torch.randn((n_components, n_latent), generator=generator)
        )
        self.encoder: nn.Module = SharedScale(n_latent)
        self.posterior: Posterior = DiagonalNormal(n_latent)
        # Encoder, posterior and likelihood of an autoencoder. In a tuple, because torch does not
        # register submodules in tuples: the autoencoder trains, moves and saves them.
        self._lent: tuple[()] | tuple[nn.Module, Posterior, Likelihood] = ()

    def attach(
        self,
        encoder: nn.Module,
        posterior: Posterior,
        rows: Tensor,
        likelihood: Likelihood,
        generator: torch.Generator,
    ) -> None:
        self._lent = (encoder, posterior, likelihood)
        del self.encoder, self.posterior
        n_components = self.weight_logits.numel()
        chosen = torch.randint(
            rows.shape[0], (n_components,), generator=generator, device=rows.device
        )
        start = likelihood.free(rows[chosen])
        start = start + JITTER * standard_normal(tuple(start.shape), generator, start)
        self.pseudo_inputs = nn.Parameter(start)

    def _apply(self, fn, recurse=True):
        # A copy of this density alone contains copies of these modules, which must be converted
        # with it to another dtype or device. In the whole model they are converted twice, which is
        # harmless.
        for module in self._lent:
            module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def components(self) -> tuple[Posterior, Tensor]:
        """The posterior q, and the encoder's outputs for each component, (K, k D)."""
        if not self._lent:
            return self.posterior, self.encoder(self.pseudo_inputs)
        encoder, posterior, likelihood = self._lent
        return posterior, encoder(likelihood.bound(self.pseudo_inputs))

    def frozen(self) -> Self:
        """Return a copy that does not need the autoencoder.

        Its pseudo-inputs are the encoder's outputs at the current ones, and its encoder is the
        identity.
        """
        density = copy.deepcopy(self)
        with torch.no_grad():
            density.posterior, outputs = density.components()
        density.pseudo_inputs = nn.Parameter(outputs)
        density.encoder, density._lent = nn.Identity(), ()
        return density

    def weights(self) -> Tensor:
        """w, (K,)."""
        return self.weight_logits.softmax(0)

    def log_density(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, self.n_latent)
        posterior, outputs = self.components()
        parts = posterior.pairwise_log_density(flat, outputs)
        return (parts + self.weight_logits.log_softmax(0)).logsumexp(1).reshape(z.shape[:-1])

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        k = draw_components(self.weights(), n_samples, generator)
        noise = standard_normal((1, n_samples, self.n_latent), generator, self.anchor)
        posterior, outputs = self.components()
        z, _ = posterior.draw(outputs[k], noise)
        return z[0]

    @torch.no_grad()
    def initialise(self, rows: Tensor, generator: torch.Generator) -> None:
        assert isinstance(self.encoder, SharedScale)
        centres, variance = spread_centres(rows, self.pseudo_inputs.shape[0], generator)
        self.pseudo_inputs.copy_(centres)
        scale = variance.sqrt().clamp(min=MIN_INITIAL_SCALE)
        self.encoder.raw_scale.copy_(inverse_positive(scale))
