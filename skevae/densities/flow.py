"""A normalising flow as a latent density."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skevae.densities.base import NormalizedDensity
from skevae.energies import LOG_2PI, standard_normal_energy
from skevae.networks.flows import import_zuko
from skevae.utils.random import SEED_BOUND, lent_globals, make_generator, standard_normal

# Names of zuko's classes: neural spline flows (Durkan et al. 2019) and masked autoregressive flows
# (Papamakarios et al. 2017).
FLOWS = {"nsf": "NSF", "maf": "MAF"}


class FlowDensity(NormalizedDensity):
    r"""Distribution of z such that t(z) is standard normal, for an invertible map t.

    .. math::
        \ln p(z) = \ln N(t(z); 0, I) + \ln |\det \partial t / \partial z|

    Parameters
    ----------
    n_latent : int
    flow : str
        A key of `FLOWS`.
    n_transforms : int
        Number of autoregressive maps that t is composed of.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers of each map's network.
    generator : torch.Generator
        Generator of the initial weights.
    """

    def __init__(
        self,
        n_latent: int,
        *,
        flow: str,
        n_transforms: int,
        hidden_layer_sizes: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__(n_latent)
        build = getattr(import_zuko().flows, FLOWS[flow])
        seed = int(torch.randint(SEED_BOUND, (), generator=generator))
        with lent_globals(make_generator(seed)):
            # Only the map is used; the noise of the base comes from a generator.
            self.map = build(
                n_latent,
                transforms=n_transforms,
                hidden_features=tuple(hidden_layer_sizes),
                activation=nn.SiLU,
            ).transform

    def __repr__(self) -> str:
        # The repr of zuko's modules draws from torch's global generator.
        return f"{type(self).__name__}(n_latent={self.n_latent})"

    def log_density(self, z: Tensor) -> Tensor:
        noise, log_jacobian = self.map().call_and_ladj(z)
        log_density = log_jacobian - standard_normal_energy(noise) - 0.5 * self.n_latent * LOG_2PI
        # If an outlier overflows inside the map, terms cancel to nan: its density is 0.
        return log_density.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        noise = standard_normal((n_samples, self.n_latent), generator, self.anchor)
        return self.map().inv(noise)
