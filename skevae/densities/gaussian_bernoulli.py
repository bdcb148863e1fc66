"""The Gaussian-Bernoulli RBM as a latent density."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae.densities.base import AnnealedDensity
from skevae.energies import AnnealingPath, GaussianBernoulliEnergy
from skevae.log_partition.annealing import LogPartitionInterval, anneal_forward, annealed_interval
from skevae.log_partition.exact import exact_log_partition
from skevae.samplers import SAMPLERS
from skevae.samplers.base import Sampler, Transition
from skevae.samplers.exact import exact_sample
from skevae.samplers.gibbs import block_gibbs
from skevae.utils.log_mean import log_mean_exp

# ln Z costs 2^(H+1) operations. Up to these numbers of hidden units that is worth paying, on a CPU
# of a few cores, once after a fit (seconds), at every call of `sample` (half a second), once an
# epoch (tens of milliseconds), and at every training step (milliseconds, as a small network takes).
EXACT_EVALUATION_UNITS = 36


EXACT_SAMPLING_UNITS = 32


EXACT_WATCHING_UNITS = 28


EXACT_TRAINING_UNITS = 24


# Without exact tables, long chains stand in for independent draws.
BURN_IN_STEPS = 1000


class GaussianBernoulliDensity(AnnealedDensity):
    """Gaussian-Bernoulli RBM over z, with learnable parameters.

    Parameters
    ----------
    n_latent, n_hidden : int
        D and H.
    generator : torch.Generator
        Of the initial weights.
    sampler : str
        A key of `skevae.samplers.SAMPLERS`.
    n_gibbs_steps : int
        Elementary steps of one transition.
    step_size : float
        Of Langevin steps.
    n_chains : int
        Persistent chains that train it.
    learn_scale : bool
        Whether sigma is learned; it is 1 otherwise.
    initial_scale : float
        Standard deviation of the initial weights.
    """

    def __init__(
        self,
        n_latent: int,
        n_hidden: int,
        *,
        generator: torch.Generator,
        sampler: str = "gibbs",
        n_gibbs_steps: int = 1,
        step_size: float = 0.3,
        n_chains: int = 256,
        learn_scale: bool = True,
        initial_scale: float = 0.1,
    ) -> None:
        super().__init__(n_latent)
        self.n_hidden = n_hidden
        self.has_exact_log_partition = n_hidden <= EXACT_EVALUATION_UNITS
        self.trains_exactly = n_hidden <= EXACT_TRAINING_UNITS
        self.samples_exactly = self.has_exact_log_partition and n_hidden <= EXACT_SAMPLING_UNITS
        if sampler == "exact" and n_hidden > EXACT_SAMPLING_UNITS:
            raise ValueError(
                f"sampler='exact' is out of reach of this prior: {self.describe_size()}. Use fewer "
                "hidden units or another sampler."
            )
        self.sampler = sampler
        self.n_gibbs_steps = n_gibbs_steps
        self.step_size = step_size
        self.n_chains = n_chains
        noise = torch.randn((n_latent, n_hidden), generator=generator)
        self.weight = nn.Parameter(initial_scale * noise)
        self.hidden_bias = nn.Parameter(torch.zeros(n_hidden))
        self.visible_mean = nn.Parameter(torch.zeros(n_latent))
        self.log_variance = nn.Parameter(torch.zeros(n_latent), requires_grad=learn_scale)

    def describe_size(self) -> str:
        return (
            f"n_components={self.n_hidden} hidden units cost 2^{self.n_hidden + 1} operations for "
            f"each value of ln Z, and at most {EXACT_EVALUATION_UNITS} units are worth that"
        )

    def as_energy(self) -> GaussianBernoulliEnergy:
        """Return the energy at the present parameters, through which gradients flow."""
        return GaussianBernoulliEnergy(
            self.weight, self.hidden_bias, self.visible_mean, self.log_variance.exp()
        )

    def energy(self, z: Tensor) -> Tensor:
        return self.as_energy()(z)

    def mean_energy(self, z: Tensor) -> Tensor:
        return self.as_energy().mean(z)

    def hidden_probabilities(self, z: Tensor) -> Tensor:
        """P(h = 1 | z): (..., D) -> (..., H)."""
        return self.as_energy().hidden_logits(z).sigmoid()

    def log_partition(self) -> Tensor:
        # In float64 whatever the module's dtype: the range of float32 exponentials is soon left,
        # and at the sizes a training step can afford the product is not what costs.
        return exact_log_partition(self.as_energy().to(torch.float64)).to(self.weight.dtype)

    @torch.no_grad()
    def log_partition_interval(self, generator: torch.Generator) -> LogPartitionInterval:
        energy = self.as_energy().to(torch.float64)
        if self.has_exact_log_partition:
            value = exact_log_partition(energy).item()
            return LogPartitionInterval(value, value)
        path = self._annealing_path(energy)

        def long_chains(n_chains: int, ends: Tensor) -> Tensor:
            return block_gibbs(energy, ends, generator, BURN_IN_STEPS)

        return annealed_interval(path, block_gibbs, generator, long_chains)

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

    def make_transition(self) -> Transition:
        sampler = self.make_sampler()
        return lambda z, generator: sampler(self.as_energy(), z, generator)

    def make_sampler(self, n_steps: int | None = None) -> Sampler:
        """Return the sampler of this density, ``n_steps`` instead of `n_gibbs_steps` a call."""
        n_steps = self.n_gibbs_steps if n_steps is None else n_steps
        return SAMPLERS[self.sampler](n_steps, self.step_size)

    @torch.no_grad()
    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        energy = self.as_energy()
        if self.samples_exactly:
            return exact_sample(energy, n_samples, generator)
        start = self.noise(n_samples, generator)
        return self.make_sampler(BURN_IN_STEPS)(energy, start, generator)
