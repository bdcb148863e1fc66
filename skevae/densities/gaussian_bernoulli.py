"""The Gaussian-Bernoulli RBM as a latent density."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae.densities.base import AnnealedDensity
from skevae.energies import AnnealingPath, GaussianBernoulliEnergy
from skevae.log_partition.annealing import (
    EstimatedInterval,
    LogPartitionInterval,
    anneal_forward,
    anneal_population,
    annealed_interval,
)
from skevae.log_partition.envelope import certified_interval
from skevae.log_partition.exact import exact_log_partition, is_far_from_underflow
from skevae.samplers import resolve_sampler
from skevae.samplers.base import Sampler
from skevae.samplers.exact import exact_sample
from skevae.samplers.gibbs import block_gibbs
from skevae.utils.log_mean import log_mean_exp
from skevae.utils.ranks import ALONE, Ranks

# ln Z costs 2^(H+1) operations. Largest numbers of hidden units for which it is affordable on a CPU
# with a few cores: once after a fit (seconds), in every call of `sample` (half a second), once per
# epoch (tens of milliseconds), and in every training step (milliseconds, like a small network).
EXACT_EVALUATION_UNITS = 36
EXACT_SAMPLING_UNITS = 32
EXACT_WATCHING_UNITS = 28
EXACT_TRAINING_UNITS = 24
# From this size on, computing a part of ln Z and adding up the parts is faster than computing all.
SHARED_UNITS = 26

# Width in nats at which a certified interval of ln Z is narrow enough.
CERTIFIED_WIDTH = 0.1

# Number of independent annealed intervals if it is not, and the steps of each.
N_ANNEALED_INTERVALS = 3
N_ANNEALING_STEPS = 1000

# Steps of the chains that replace independent draws if these are too expensive.
BURN_IN_STEPS = 1000


class GaussianBernoulliDensity(AnnealedDensity):
    """Gaussian-Bernoulli RBM over z, with learnable parameters.

    Parameters
    ----------
    n_latent, n_hidden : int
        D and H.
    generator : torch.Generator
        Generator of the initial weights.
    sampler : str or Sampler
        A key of `skevae.samplers.SAMPLERS`, or a sampler object.
    n_gibbs_steps : int
        Number of elementary steps per transition, for a sampler given by name.
    n_chains : int
        Persistent chains in training.
    learn_scale : bool
        Whether sigma is learned; otherwise it is 1.
    initial_scale : float
        Standard deviation of the initial weights.
    """

    def __init__(
        self,
        n_latent: int,
        n_hidden: int,
        *,
        generator: torch.Generator,
        sampler: str | Sampler = "gibbs",
        n_gibbs_steps: int = 1,
        n_chains: int = 256,
        learn_scale: bool = True,
        initial_scale: float = 0.1,
    ) -> None:
        super().__init__(n_latent, n_chains)
        # Parameters may be NumPy numbers.
        self.n_hidden = int(n_hidden)
        self.n_gibbs_steps = int(n_gibbs_steps)
        self.has_exact_log_partition = self.n_hidden <= EXACT_EVALUATION_UNITS
        self.trains_exactly = self.n_hidden <= EXACT_TRAINING_UNITS
        self.samples_exactly = self.n_hidden <= EXACT_SAMPLING_UNITS
        self.sampler = self.checked_sampler(sampler)
        noise = torch.randn((n_latent, n_hidden), generator=generator)
        self.weight = nn.Parameter(initial_scale * noise)
        self.hidden_bias = nn.Parameter(torch.zeros(n_hidden))
        self.visible_mean = nn.Parameter(torch.zeros(n_latent))
        self.log_variance = nn.Parameter(torch.zeros(n_latent), requires_grad=bool(learn_scale))

    def checked_sampler(self, sampler: str | Sampler) -> Sampler:
        made = resolve_sampler(sampler, n_steps=self.n_gibbs_steps)
        if made.needs_exact_tables and self.n_hidden > EXACT_SAMPLING_UNITS:
            raise ValueError(
                f"sampler={sampler!r} is too expensive for this prior: it is limited to "
                f"{EXACT_SAMPLING_UNITS} hidden units, and n_components={self.n_hidden}. Use fewer "
                "hidden units or another sampler."
            )
        return made

    def why_not_exact(self) -> str:
        return (
            f"with n_components={self.n_hidden} hidden units each value of ln Z costs "
            f"2^{self.n_hidden + 1} operations, and {EXACT_EVALUATION_UNITS} units are the limit. "
            "Use fewer hidden units"
        )

    def as_energy(self) -> GaussianBernoulliEnergy:
        return GaussianBernoulliEnergy(
            self.weight, self.hidden_bias, self.visible_mean, self.log_variance.exp()
        )

    def mean_energy(self, z: Tensor) -> Tensor:
        return self.as_energy().mean(z)

    def hidden_probabilities(self, z: Tensor) -> Tensor:
        """P(h = 1 | z): (..., D) -> (..., H)."""
        return self.as_energy().hidden_logits(z).sigmoid()

    def log_partition(self) -> Tensor:
        return self._log_partition()

    def log_partition_among(self, ranks: Ranks) -> Tensor:
        return self._log_partition(ranks=ranks if self.n_hidden >= SHARED_UNITS else ALONE)

    def unchecked_log_partition(self) -> Tensor:
        return self._log_partition(checked=False)

    def _log_partition(self, *, checked: bool = True, ranks: Ranks = ALONE) -> Tensor:
        # Always in float64: exponentials easily exceed the range of float32, and the matrix product
        # takes little time at the sizes that are used in training steps.
        energy = self.as_energy().to(torch.float64)
        return exact_log_partition(energy, checked=checked, ranks=ranks).to(self.weight.dtype)

    def is_far_from_underflow(self) -> bool:
        return is_far_from_underflow(self.as_energy().to(torch.float64))

    @torch.no_grad()
    def log_partition_interval(
        self, generator: torch.Generator, effort: int = 1
    ) -> LogPartitionInterval:
        energy = self.as_energy().to(torch.float64)
        if self.has_exact_log_partition:
            value = exact_log_partition(energy).item()
            return LogPartitionInterval(value, value)
        interval = certified_interval(
            energy, generator, n_exact=EXACT_TRAINING_UNITS, width=CERTIFIED_WIDTH
        )
        if interval.high - interval.low <= CERTIFIED_WIDTH:
            return interval
        n_steps = effort * N_ANNEALING_STEPS
        runs = [
            self._annealed_interval(energy, generator, n_steps) for _ in range(N_ANNEALED_INTERVALS)
        ]
        # The difference between independent runs is a part of their error.
        low, high = min(run.low for run in runs), max(run.high for run in runs)
        high = min(max(high, interval.low), interval.high)
        return EstimatedInterval(min(max(low, interval.low), high), high)

    def _annealed_interval(
        self, energy: GaussianBernoulliEnergy, generator: torch.Generator, n_steps: int
    ) -> EstimatedInterval:
        """Interval by annealing, with reverse runs that start from a resampled population."""
        path = self._annealing_path(energy)

        def draws(n_chains: int, ends: Tensor) -> Tensor:
            z = anneal_population(path, block_gibbs, generator, n_chains=n_chains, n_betas=n_steps)
            return block_gibbs(energy, z, generator, n_steps // 10)

        return annealed_interval(path, block_gibbs, generator, draws, n_betas=n_steps)

    @torch.no_grad()
    def quick_log_partition(self, generator: torch.Generator) -> float:
        energy = self.as_energy()
        if self.has_exact_log_partition and self.n_hidden <= EXACT_WATCHING_UNITS:
            return exact_log_partition(energy.to(torch.float64)).item()
        log_weights, _ = anneal_forward(
            self._annealing_path(energy), block_gibbs, generator, n_chains=100, n_betas=200
        )
        return log_mean_exp(log_weights).item()

    def _annealing_path(self, energy: GaussianBernoulliEnergy) -> AnnealingPath:
        dtype = energy.weight.dtype
        return AnnealingPath(energy, self.base_mean.to(dtype), self.base_variance.to(dtype))

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        energy = self.as_energy()
        if self.samples_exactly:
            return exact_sample(energy, n_samples, generator)
        start = self.noise(n_samples, generator)
        return self.sampler.lengthened(BURN_IN_STEPS)(energy, start, generator)
