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
from skevae.samplers import GRADIENT_SAMPLERS
from skevae.samplers.base import Transition
from skevae.samplers.langevin import MetropolisLangevin
from skevae.utils.log_mean import log_mean_exp

# Langevin steps go through this many sizes, each half the one before: an energy of this kind may
# have modes far narrower than its Gaussian, and a schedule that is fixed keeps every step exact.
N_STEP_SCALES = 4


# Chains of an annealing run, and the particles from which rows are drawn, at least and at most.
N_CHAINS = 400


POPULATION = 400


MAX_POPULATION = 10_000


# Steps by which copies of one particle part.
MIXING_STEPS = 20


# Keeps the Gaussian proper where rows do not vary.
MIN_VARIANCE = 1e-3


# ln Z is watched, once an epoch, by runs this many times shorter.
WATCHING_SHARE = 5


class NeuralDensity(AnnealedDensity):
    r"""exp(-E(z)) / Z with a Gaussian plus a bounded network as the energy.

    .. math::
        E(z) = \tfrac12 \sum_i \frac{(z_i - \mu_i)^2}{\sigma_i^2} + b \tanh(f(z) / b)

    The bound b makes exp(-E) integrable whatever the network f: ln Z lies within b nats of the
    Gaussian's, the tails are the Gaussian's, and no importance weight against it exceeds e^2b.

    Parameters
    ----------
    n_latent : int
    network : Module, (..., D) -> (..., 1) or (...)
        f.
    bound : float
        b, in nats.
    sampler : str
        A key of `skevae.samplers.GRADIENT_SAMPLERS`.
    n_langevin_steps : int
        Elementary steps of one transition.
    step_size : float
        Of the largest step, in units of sigma.
    n_chains : int
        Persistent chains that train it.
    n_annealing_steps : int
        Of the runs that sample it and bound ln Z.
    """

    has_exact_log_partition = False
    trains_exactly = False

    def __init__(
        self,
        n_latent: int,
        network: nn.Module,
        *,
        bound: float = 20.0,
        sampler: str = "metropolis-langevin",
        n_langevin_steps: int = 10,
        step_size: float = 0.5,
        n_chains: int = 256,
        n_annealing_steps: int = 500,
    ) -> None:
        super().__init__(n_latent)
        self.network = network
        self.bound = bound
        self.sampler = sampler
        self.n_langevin_steps = n_langevin_steps
        self.step_size = step_size
        self.n_chains = n_chains
        self.n_annealing_steps = n_annealing_steps
        self.mean = nn.Parameter(torch.zeros(n_latent))
        self.log_variance = nn.Parameter(torch.zeros(n_latent))
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay as in evaluation: an energy is a function of z, without dropout or batches."""
        return super().train(False)

    def describe_size(self) -> str:
        return "no closed form normalises a neural energy"

    def correction(self, z: Tensor) -> Tensor:
        """The bounded part of the energy: (..., D) -> (...)."""
        value = self.network(z)
        value = value.squeeze(-1) if value.dim() == z.dim() else value
        return self.bound * (value / self.bound).tanh()

    def as_energy(self) -> CorrectedGaussianEnergy:
        """Return the energy at the present parameters, through which gradients flow."""
        return CorrectedGaussianEnergy(self.mean, self.log_variance.exp(), self.correction)

    def energy(self, z: Tensor) -> Tensor:
        return self.as_energy()(z)

    @torch.no_grad()
    def log_partition_interval(self, generator: torch.Generator) -> LogPartitionInterval:
        def draws(n_chains: int, ends: Tensor) -> Tensor:
            return self._population(POPULATION, generator)[:n_chains]

        return annealed_interval(
            self._path(),
            self._sweep(),
            generator,
            draws,
            n_chains=N_CHAINS,
            n_betas=self.n_annealing_steps,
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
        """One Metropolis-adjusted step, whose size goes on through the schedule at each call."""
        sampler = MetropolisLangevin(1, self.step_size, N_STEP_SCALES)
        index = itertools.count()

        def sweep(energy: Any, z: Tensor, generator: torch.Generator) -> Tensor:
            return sampler.step(energy, z, generator, next(index))

        return sweep

    def make_transition(self) -> Transition:
        kind = GRADIENT_SAMPLERS[self.sampler]
        sampler = kind(self.n_langevin_steps, self.step_size, N_STEP_SCALES)
        return lambda z, generator: sampler(self.as_energy(), z, generator)

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        parts = torch.arange(n_samples).split(MAX_POPULATION)
        draws = [self._population(max(POPULATION, len(p)), generator)[: len(p)] for p in parts]
        return torch.cat(draws)

    def _population(self, n_chains: int, generator: torch.Generator) -> Tensor:
        """Annealed draws, the copies among which a transition has moved apart."""
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
