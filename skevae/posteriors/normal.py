"""Normal posteriors: with unit variance, or with a learned diagonal variance."""

from __future__ import annotations

from torch import Tensor

from skevae.energies import LOG_2PI, pairwise_normal_log_density
from skevae.networks.scales import positive
from skevae.posteriors.base import Posterior

# A posterior this narrow is practically a point; the bound keeps its logarithm finite.
MIN_SCALE = 1e-5


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

    def invert(self, z: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = z - outputs
        return noise, -0.5 * (noise.square() + LOG_2PI).sum(-1)

    def pairwise_log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        # In float64: squares of distant points cancel, and float32 is not precise enough.
        z64, mean = z.double(), outputs.double()
        squares = z64.square().sum(-1)[:, None] + mean.square().sum(-1)
        log_density = z64 @ mean.mT - 0.5 * (squares + mean.shape[-1] * LOG_2PI)
        return log_density.to(z.dtype)


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

    def invert(self, z: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self._moments(outputs)
        noise = (z - mean) / scale
        log_noise = -0.5 * (noise.square() + LOG_2PI).sum(-1)
        return noise, log_noise - scale.log().sum(-1)

    def pairwise_log_density(self, z: Tensor, outputs: Tensor) -> Tensor:
        return pairwise_normal_log_density(z, *self._moments(outputs))
