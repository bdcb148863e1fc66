"""Approximate posteriors q(z | x): reparametrised draws and their log-density."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skevae._random import quasi_normal
from skevae.energies import LOG_2PI, pairwise_normal_log_density
from skevae.flows import AutoregressiveFlow
from skevae.networks import positive

# A posterior this narrow is a point; the bound keeps its logarithm finite.
MIN_SCALE = 1e-5

# Points by which moments without a closed form are evaluated.
N_MOMENT_POINTS = 256

# Values of a flow's widest layer that are computed at a time: a few megabytes.
VALUES_AT_ONCE = 2**18


class Posterior(nn.Module):
    """Base of the posteriors. The encoder returns its ``outputs``, k numbers for each latent.

    Parameters
    ----------
    n_latent : int
        D.

    Attributes
    ----------
    outputs_per_latent : int
        k.
    width : int
        Values that `draw` holds at a time for each (draw, row).
    has_log_density : bool
        Whether `log_density` is implemented. Flows lack it, as they would have to be inverted.
    """

    outputs_per_latent: int
    has_log_density = True

    def __init__(self, n_latent: int) -> None:
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

    def log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        """ln q(z | x) of given latents: (n_draws, n, D), (n, k D) -> (n_draws, n)."""
        raise NotImplementedError

    def pairwise_log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        """ln q(z_i | x_j) for all pairs: (m, D), (n, k D) -> (m, n)."""
        raise NotImplementedError


class FixedNormal(Posterior):
    """q(z | x) = N(m(x), I), the unit-variance posterior of the paper's ECVVAE.

    The encoder's ``outputs``, (..., D), are the mean.
    """

    outputs_per_latent = 1

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def variance(self, outputs: Tensor) -> Tensor:
        return outputs.new_ones(outputs.shape)

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = outputs + noise
        log_density = -0.5 * (noise.square() + LOG_2PI).sum(-1)
        return z, log_density.expand(z.shape[:-1])

    def log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        return -0.5 * ((z - outputs).square() + LOG_2PI).sum(-1)

    def pairwise_log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        squares = z.square().sum(-1)[:, None] + outputs.square().sum(-1)
        return z @ outputs.mT - 0.5 * (squares + outputs.shape[-1] * LOG_2PI)


class DiagonalNormal(Posterior):
    """q(z | x) = N(m(x), diag(s(x)^2)), with a learned scale for each row and latent.

    The encoder's ``outputs``, (..., 2 D), are the mean and the scale before softplus.
    """

    outputs_per_latent = 2

    @staticmethod
    def _moments(outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_scale = outputs.chunk(2, dim=-1)
        return mean, positive(raw_scale) + MIN_SCALE

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.chunk(2, dim=-1)[0]

    def variance(self, outputs: Tensor) -> Tensor:
        return self._moments(outputs)[1].square()

    def draw(self, outputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self._moments(outputs)
        log_noise = -0.5 * (noise.square() + LOG_2PI).sum(-1)
        return mean + scale * noise, log_noise - scale.log().sum(-1)

    def log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        mean, scale = self._moments(outputs)
        noise = (z - mean) / scale
        return -0.5 * (noise.square() + LOG_2PI).sum(-1) - scale.log().sum(-1)

    def pairwise_log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        return pairwise_normal_log_density(z, *self._moments(outputs))


class InverseAutoregressive(Posterior):
    r"""Normal with a learned scale, bent by an inverse autoregressive flow (Kingma et al. 2016).

    .. math::
        z = m(x) + s(x) \, f(\epsilon; c(x)), \qquad \epsilon \sim N(0, I), \\
        \ln q(z \mid x) = \ln N(\epsilon; 0, I) - \ln |\det f'(\epsilon)| - \sum_i \ln s_i(x)

    The flow f correlates the latents and bends their law; each of its steps costs a draw two masked
    products. At first f is the identity, and q is `DiagonalNormal`.
    Kingma et al. put the affine map first and let the flow act on z. Here it is last: that is the
    same family, an affine step being autoregressive too, but the flow works in units of the row's
    own scale, wherever the row's latents lie and however narrow its posterior is.

    The encoder's ``outputs``, (..., 3 D), are m, the scale s before softplus, and the context c.

    Moments have no closed form. They are averages over one fixed block of scrambled Sobol noise
    (`N_MOMENT_POINTS` points in antithetic pairs, of unit variance), so they are deterministic, do
    not depend on the rows beside, and are exact as long as f is the identity.

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

    def __init__(self, n_latent: int) -> None:
        super().__init__(n_latent)
        self.flow = AutoregressiveFlow(n_latent, n_latent, volume_preserving=self.volume_preserving)
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
        # Piece by piece, of which autograd keeps none: each is computed again when its turn comes.
        rows_at_once = max(1, VALUES_AT_ONCE // (len(outputs) * self.width))
        parts = [
            checkpoint(self._pairs, rows, outputs, use_reentrant=False, preserve_rng_state=False)
            for rows in z.split(rows_at_once)
        ]
        return torch.cat(parts)

    def _pairs(self, z: Tensor, outputs: Tensor) -> Tensor:
        mean, scale, context = self._split(outputs)
        noise, log_det = self.flow.inverse((z[:, None] - mean) / scale, context)
        log_noise = -0.5 * (noise.square() + LOG_2PI).sum(-1)
        return log_noise + log_det - scale.log().sum(-1)


class VolumePreservingInverseAutoregressive(InverseAutoregressive):
    """`InverseAutoregressive` whose flow shifts each latent by what the others say, scaling none.

    The determinant of the flow is 1: the density of a draw is that of `DiagonalNormal`.
    """

    volume_preserving = True


POSTERIORS: dict[str, type[Posterior]] = {
    "fixed": FixedNormal,
    "diagonal": DiagonalNormal,
    "iaf": InverseAutoregressive,
    "iaf-volume-preserving": VolumePreservingInverseAutoregressive,
}
