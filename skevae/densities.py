"""Latent densities p(z) = exp(-E(z)) / Z: an energy, its sampler and its ln Z in one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae import samplers
from skevae._random import standard_normal
from skevae.energies import (
    LOG_2PI,
    AnnealingPath,
    GaussianBernoulliEnergy,
    standard_normal_energy,
)
from skevae.partition import (
    LogPartitionInterval,
    anneal_forward,
    annealed_interval,
    exact_log_partition,
    log_mean_exp,
)
from skevae.posteriors import Posterior
from skevae.samplers import SAMPLERS, Sampler, Transition

# ln Z costs 2^(H+1) operations. Up to these numbers of hidden units that is worth paying, on a CPU
# of a few cores, once after a fit (seconds), at every call of `sample` (half a second), once an
# epoch (tens of milliseconds), and at every training step (milliseconds, as a small network takes).
EXACT_EVALUATION_UNITS = 36
EXACT_SAMPLING_UNITS = 32
EXACT_WATCHING_UNITS = 28
EXACT_TRAINING_UNITS = 24

# Without exact tables, long chains stand in for independent draws.
BURN_IN_STEPS = 1000


class Density(nn.Module):
    """Base of latent densities: what `skevae` asks of one.

    Attributes
    ----------
    n_latent : int
        Dimension D of z.
    n_chains : int
        How many persistent chains train it.
    has_exact_log_partition : bool
        Whether `log_partition` is cheap enough to be evaluated once.
    trains_exactly : bool
        Whether it is cheap enough for every training step.
    samples_exactly : bool
        Whether `sample` returns independent draws from p(z) itself.
    """

    n_latent: int
    n_chains: int
    has_exact_log_partition: bool
    trains_exactly: bool
    samples_exactly: bool = False

    def describe_size(self) -> str:
        """Say what makes exact normalisation expensive, for a message."""
        raise NotImplementedError

    def energy(self, z: Tensor) -> Tensor:
        """E(z) in nats: (..., D) -> (...)."""
        raise NotImplementedError

    def mean_energy(self, z: Tensor) -> Tensor:
        """Mean energy of rows that are constants: (n, D) -> scalar."""
        return self.energy(z.detach()).mean()

    def log_partition(self) -> Tensor:
        """Exact ln Z, scalar, differentiable."""
        raise NotImplementedError

    def log_partition_interval(self, generator: torch.Generator) -> LogPartitionInterval:
        """Bounds of ln Z, equal where it is exact."""
        raise NotImplementedError

    def quick_log_partition(self, generator: torch.Generator) -> float:
        """Value of ln Z good enough to watch training by, once an epoch."""
        raise NotImplementedError

    def make_transition(self) -> Transition:
        """Return a Markov step (z, generator) -> z that leaves p(z) unchanged: (n, D) -> (n, D).

        It follows the parameters as they change, and may have a state of its own.
        """
        raise NotImplementedError

    def transition(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Make one such step: (n, D) -> (n, D)."""
        return self.make_transition()(z, generator)

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw from p(z): (n, D)."""
        raise NotImplementedError

    def noise(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw where chains without a past start: (n, D)."""
        raise NotImplementedError

    def set_base(self, mean: Tensor, variance: Tensor) -> None:
        """Take the moments of the aggregated posterior, each (D,), as the base of annealing."""

    def initialise(self, rows: Tensor, generator: torch.Generator) -> None:
        """Start from the rows, (n, D), that the density is about to be trained on alone."""

    def attach(
        self,
        encoder: nn.Module,
        posterior: Posterior,
        rows: Tensor,
        is_continuous: bool,
        generator: torch.Generator,
    ) -> None:
        """Get to know the autoencoder that the density is about to be trained in.

        Parameters
        ----------
        encoder : Module, (..., n_features) -> (..., posterior outputs)
            Belongs to the autoencoder, which trains it: not to be registered as a submodule.
        posterior : Module of `skevae.posteriors`
            Likewise.
        rows : Tensor of shape (n, n_features)
            What the encoder will see.
        is_continuous : bool
            Otherwise rows lie in [0, 1].
        generator : torch.Generator
        """


class NormalizedDensity(Density):
    """Base of the densities that are normalised in closed form and drawn from directly.

    A subclass says what ln p(z) is and how to draw; E(z) = -ln p(z), so that ln Z = 0.
    """

    has_exact_log_partition = True
    trains_exactly = True
    samples_exactly = True
    n_chains = 256

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent
        # Carries device and dtype, whatever else there is.
        self.anchor: Tensor
        self.register_buffer("anchor", torch.zeros(()))

    def describe_size(self) -> str:
        return f"{type(self).__name__} over {self.n_latent} dimensions is normalised already"

    def log_density(self, z: Tensor) -> Tensor:
        """ln p(z) in nats: (..., D) -> (...)."""
        raise NotImplementedError

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_density(z)

    def log_partition(self) -> Tensor:
        return self.anchor.clone()

    @torch.no_grad()
    def log_partition_interval(self, generator: torch.Generator) -> LogPartitionInterval:
        value = self.log_partition().item()
        return LogPartitionInterval(value, value)

    def quick_log_partition(self, generator: torch.Generator) -> float:
        return self.log_partition_interval(generator).high

    def make_transition(self) -> Transition:
        # Fresh draws, which forget where the chains stood.
        return lambda z, generator: self.sample(z.shape[0], generator)

    def noise(self, n_samples: int, generator: torch.Generator) -> Tensor:
        return self.sample(n_samples, generator)


class StandardNormalDensity(NormalizedDensity):
    """N(0, I), with E(z) half the squared norm.

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


class AnnealedDensity(Density):
    """Base of the densities whose ln Z may have to be annealed from a diagonal Gaussian.

    Parameters
    ----------
    n_latent : int
    """

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.base_mean: Tensor
        self.base_variance: Tensor
        self.register_buffer("base_mean", torch.zeros(n_latent))
        self.register_buffer("base_variance", torch.ones(n_latent))

    def set_base(self, mean: Tensor, variance: Tensor) -> None:
        self.base_mean.copy_(mean)
        self.base_variance.copy_(variance)

    def noise(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw from the base of annealing, a Gaussian: where chains without a past start."""
        noise = standard_normal((n_samples, self.n_latent), generator, self.base_mean)
        return self.base_mean + self.base_variance.sqrt() * noise


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
            return samplers.block_gibbs(energy, ends, generator, BURN_IN_STEPS)

        return annealed_interval(path, samplers.block_gibbs, generator, long_chains)

    @torch.no_grad()
    def quick_log_partition(self, generator: torch.Generator) -> float:
        energy = self.as_energy()
        if self.has_exact_log_partition and self.n_hidden <= EXACT_WATCHING_UNITS:
            return exact_log_partition(energy.to(torch.float64)).item()
        log_weights, _ = anneal_forward(
            self._annealing_path(energy), samplers.block_gibbs, generator, n_chains=100, n_betas=200
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
            return samplers.exact_sample(energy, n_samples, generator)
        start = self.noise(n_samples, generator)
        return self.make_sampler(BURN_IN_STEPS)(energy, start, generator)
