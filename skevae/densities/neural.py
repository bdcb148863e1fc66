"""A neural network as the energy of a latent density."""

from __future__ import annotations

import itertools
from typing import Any, Self

import torch
from torch import Tensor, nn

from skevae.densities.base import AnnealedDensity
from skevae.energies import CorrectedGaussianEnergy, GeometricPath
from skevae.log_partition.annealing import (
    LogPartitionInterval,
    Sweep,
    anneal_forward,
    anneal_population,
    annealed_interval,
)
from skevae.samplers import GRADIENT_SAMPLERS, resolve_sampler
from skevae.samplers.base import Sampler
from skevae.samplers.langevin import MetropolisLangevin
from skevae.utils.log_mean import log_mean_exp

# Langevin steps cycle through this many sizes, each half of the previous one: the energy may have
# modes much narrower than its Gaussian. The schedule is fixed, so every step is exact.
N_STEP_SCALES = 4

# Number of chains of an annealing run, and limits for the number of particles of a sample.
N_CHAINS = 400
POPULATION = 400
MAX_POPULATION = 10_000

# Number of steps that separate the copies of a resampled particle.
MIXING_STEPS = 20

# Keeps the variance of the Gaussian positive if rows do not vary.
MIN_VARIANCE = 1e-3

# The runs that monitor ln Z, once per epoch, are shorter by this factor.
WATCHING_SHARE = 5


class NeuralDensity(AnnealedDensity):
    r"""exp(-E(z)) / Z, whose energy is that of a Gaussian plus a bounded network.

    .. math::
        E(z) = \tfrac12 \sum_i \frac{(z_i - \mu_i)^2}{\sigma_i^2} + b \tanh(f(z) / b)

    The bound b makes exp(-E) integrable for any network f: ln Z is within b nats of that of the
    Gaussian, the tails are Gaussian, and importance weights relative to the Gaussian are at most
    e^2b.

    Parameters
    ----------
    n_latent : int
    network : Module, (..., D) -> (..., 1) or (...)
        f.
    bound : float
        b, in nats.
    sampler : str or Sampler
        A key of `skevae.samplers.GRADIENT_SAMPLERS`, or an object of such a sampler.
    n_langevin_steps : int
        Elementary steps of one transition of a sampler that is given by name.
    step_size : float
        Largest step size of annealing, and of a sampler given by name, in units of sigma.
    n_chains : int
        Persistent chains in training.
    n_annealing_steps : int
        Number of steps of the runs that draw samples and bound ln Z.

    Raises
    ------
    ValueError
        If the sampler only supports Gaussian-Bernoulli energies.
    """

    has_exact_log_partition = False
    trains_exactly = False

    def __init__(
        self,
        n_latent: int,
        network: nn.Module,
        *,
        bound: float = 20.0,
        sampler: str | Sampler = "metropolis-langevin",
        n_langevin_steps: int = 10,
        step_size: float = 0.5,
        n_chains: int = 256,
        n_annealing_steps: int = 500,
    ) -> None:
        super().__init__(n_latent, n_chains)
        self.network = network
        self.bound = bound
        self.n_langevin_steps = n_langevin_steps
        self.step_size = step_size
        self.sampler = self.checked_sampler(sampler)
        self.n_annealing_steps = n_annealing_steps
        self.mean = nn.Parameter(torch.zeros(n_latent))
        self.log_variance = nn.Parameter(torch.zeros(n_latent))
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: an energy is a deterministic function of z, without dropout."""
        return super().train(False)

    def checked_sampler(self, sampler: str | Sampler) -> Sampler:
        made = resolve_sampler(
            sampler,
            n_steps=self.n_langevin_steps,
            step_size=self.step_size,
            n_scales=N_STEP_SCALES,
        )
        if not made.needs_only_gradient:
            raise ValueError(
                f"sampler={sampler!r} only samples Gaussian-Bernoulli energies. A neural energy "
                f"needs one of {', '.join(GRADIENT_SAMPLERS)}."
            )
        return made

    def why_not_exact(self) -> str:
        return "there is no closed form for the ln Z of a neural energy"

    def correction(self, z: Tensor) -> Tensor:
        """Bounded term of the energy: (..., D) -> (...)."""
        value = self.network(z)
        value = value.squeeze(-1) if value.dim() == z.dim() else value
        return self.bound * (value / self.bound).tanh()

    def as_energy(self) -> CorrectedGaussianEnergy:
        return CorrectedGaussianEnergy(self.mean, self.log_variance.exp(), self.correction)

    @torch.no_grad()
    def log_partition_interval(
        self, generator: torch.Generator, effort: int = 1
    ) -> LogPartitionInterval:
        def draws(n_chains: int, ends: Tensor) -> Tensor:
            return self._population(POPULATION, generator)[:n_chains]

        return annealed_interval(
            self._path(),
            self._sweep(),
            generator,
            draws,
            n_chains=N_CHAINS,
            n_betas=effort * self.n_annealing_steps,
        )

    @torch.no_grad()
    def quick_log_partition(self, generator: torch.Generator) -> float:
        log_weights, _ = anneal_forward(
            self._path(),
            self._sweep(),
            generator,
            n_chains=N_CHAINS,
            n_betas=max(1, self.n_annealing_steps // WATCHING_SHARE),
        )
        return log_mean_exp(log_weights).item()

    def _path(self) -> GeometricPath:
        return GeometricPath(self.as_energy(), self.base_mean, self.base_variance)

    def _sweep(self) -> Sweep:
        """Return a sweep of one Metropolis-adjusted step, whose size changes in each call."""
        sampler = MetropolisLangevin(1, self.step_size, N_STEP_SCALES)
        index = itertools.count()

        def sweep(energy: Any, z: Tensor, generator: torch.Generator) -> Tensor:
            return sampler.step(energy, z, generator, next(index))

        return sweep

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        parts = torch.arange(n_samples).split(MAX_POPULATION)
        draws = [self._population(max(POPULATION, len(p)), generator)[: len(p)] for p in parts]
        return torch.cat(draws)

    def _population(self, n_chains: int, generator: torch.Generator) -> Tensor:
        """Annealed draws; a final transition separates identical copies."""
        z = anneal_population(
            self._path(),
            self._sweep(),
            generator,
            n_chains=n_chains,
            n_betas=self.n_annealing_steps,
        )
        sampler = MetropolisLangevin(MIXING_STEPS, self.step_size, N_STEP_SCALES)
        return sampler(self.as_energy(), z, generator)

    def initialise(self, rows: Tensor, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.mean.copy_(rows.mean(0))
            self.log_variance.copy_(rows.var(0, correction=0).clamp(min=MIN_VARIANCE).log())
