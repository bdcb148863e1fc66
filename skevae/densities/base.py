"""Latent densities p(z) = exp(-E(z)) / Z: an energy, its sampler and its ln Z in one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae.likelihoods.base import Likelihood
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.posteriors.base import Posterior
from skevae.samplers.base import Transition
from skevae.utils.random import standard_normal


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
        likelihood: Likelihood,
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
        likelihood : Module of `skevae.likelihoods`
            Likewise; knows the support of the rows.
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
