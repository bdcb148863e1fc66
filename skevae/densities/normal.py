"""The standard normal as a latent density."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.densities.base import NormalizedDensity
from skevae.energies import LOG_2PI, standard_normal_energy
from skevae.utils.random import standard_normal


class StandardNormalDensity(NormalizedDensity):
    """N(0, I), where E(z) is half of the squared norm.

    Parameters
    ----------
    n_latent : int
    """

    n_chains = 1

    def energy(self, z: Tensor) -> Tensor:
        return standard_normal_energy(z)

    def log_partition(self) -> Tensor:
        return self.anchor + 0.5 * self.n_latent * LOG_2PI

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        return standard_normal((n_samples, self.n_latent), generator, self.anchor)
