"""Inverse autoregressive flow posteriors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from skevae.energies import LOG_2PI
from skevae.networks.flows import AutoregressiveFlow
from skevae.networks.scales import positive
from skevae.posteriors.base import Posterior
from skevae.posteriors.normal import MIN_SCALE
from skevae.utils.random import lent_globals, make_generator, quasi_normal

# Number of points to evaluate moments without a closed form.
N_MOMENT_POINTS = 256


# Number of values of a flow's widest layer that are computed at a time: a few megabytes.
VALUES_AT_ONCE = 2**18


class InverseAutoregressive(Posterior):
    r"""Normal transformed by an inverse autoregressive flow (Kingma et al. 2016).

    .. math::
        z = m(x) + s(x) \, f(\epsilon; c(x)), \qquad \epsilon \sim N(0, I), \\
        \ln q(z \mid x) = \ln N(\epsilon; 0, I) - \ln |\det f'(\epsilon)| - \sum_i \ln s_i(x)

    The flow f makes the latents correlated and non-Gaussian; each of its steps costs two masked
    products per draw. Initially, f is the identity and q is a `DiagonalNormal`. In Kingma et al.,
    the affine map comes first and the flow acts on z. Here the affine map is last. This is the same
    family, because an affine step is also autoregressive, but the flow acts in units of the scale
    of the row, independently of the location and scale of its posterior.

    The encoder's ``outputs``, (..., 3 D), are m, the scale s before softplus, and the context c.

    Moments have no closed form. They are averages over one fixed block of scrambled Sobol noise
    (`N_MOMENT_POINTS` points in antithetic pairs, with unit variance). They are therefore
    deterministic, do not depend on other rows, and are exact if f is the identity.

    Raises
    ------
    ImportError
        If zuko is not installed.

    References
    ----------
    .. [1] Kingma et al. (2016). "Improved variational inference with inverse autoregressive flow".
    """

    outputs_per_latent = 3
    has_log_density = False
    volume_preserving = False

    def __init__(self, n_latent: int, generator: torch.Generator | None = None) -> None:
        super().__init__(n_latent)
        generator = make_generator(0) if generator is None else generator
        with lent_globals(generator):
            self.flow = AutoregressiveFlow(
                n_latent, n_latent, volume_preserving=self.volume_preserving
            )
        self.width = max(self.width, self.flow.n_hidden)
        half = quasi_normal(N_MOMENT_POINTS // 2, n_latent, seed=0).float()
        half = half / half.square().mean(0).sqrt()
        self.register_buffer("moment_noise", torch.cat([half, -half])[:, None], persistent=False)

    @staticmethod
    def _split(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, raw_scale, context = outputs.chunk(3, dim=-1)
        return mean, positive(raw_scale) + MIN_SCALE, context

    def _moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of f(noise) for each row: (..., 3 D) -> (..., D) each."""
        _, _, context = self._split(outputs)
        rows_at_once = max(1, VALUES_AT_ONCE // (N_MOMENT_POINTS * self.width))
        parts = []
        for rows in context.reshape(-1, self.n_latent).split(rows_at_once):
            y, _ = self.flow(self.moment_noise, rows)
            parts.append(torch.stack(torch.var_mean(y, 0, correction=0)))
        variance, mean = torch.cat(parts, dim=1)
        return mean.reshape(context.shape), variance.reshape(context.shape)

    def mean(self, outputs: Tensor) -> Tensor:
        mean, scale, _ = self._split(outputs)
        return mean + scale * self._moments(outputs)[0]

    def variance(self, outputs: Tensor) -> Tensor:
        _, scale, _ = self._split(outputs)
        return scale.square() * self._moments(outputs)[1]

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale, context = self._split(outputs)
        y, log_det = self.flow(noise, context)
        log_noise = -0.5 * (noise.square() + LOG_2PI).sum(-1)
        return mean + scale * y, log_noise - log_det - scale.log().sum(-1)

    def pairwise_log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        # In chunks that autograd does not store: each is computed again in the backward pass.
        rows_at_once = max(1, VALUES_AT_ONCE // (len(outputs) * self.width))
        parts = [
            checkpoint(
                self.log_density, rows, outputs, use_reentrant=False, preserve_rng_state=False
            )
            for rows in z[:, None].split(rows_at_once)
        ]
        return torch.cat(parts)

    def invert(self, z: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale, context = self._split(outputs)
        noise, log_det = self.flow.inverse((z - mean) / scale, context)
        log_noise = -0.5 * (noise.square() + LOG_2PI).sum(-1)
        return noise, log_noise + log_det - scale.log().sum(-1)


class VolumePreservingInverseAutoregressive(InverseAutoregressive):
    """`InverseAutoregressive` whose flow shifts each latent depending on others, without scaling.

    The determinant of the flow is 1: the density of a draw is that of `DiagonalNormal`.
    """

    volume_preserving = True
