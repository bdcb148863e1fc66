"""Base classes of the latent densities p(z) = exp(-E(z)) / Z: energy, sampler and ln Z."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor, nn

from skevae.likelihoods.base import Likelihood
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.posteriors.base import Posterior
from skevae.samplers.base import Sampler, SamplerTransition, Transition
from skevae.utils.memory import memory_budget
from skevae.utils.random import standard_normal
from skevae.utils.ranks import Ranks


class Density(nn.Module):
    """Base class of the latent densities.

    Attributes
    ----------
    n_latent : int
        Dimension D of z.
    n_chains : int
        Number of persistent chains in training.
    has_exact_log_partition : bool
        Whether `log_partition` is cheap enough to be computed once.
    trains_exactly : bool
        Whether it is cheap enough for every training step.
    samples_exactly : bool
        Whether `sample` returns independent draws from p(z) itself.
    scores_exactly : bool
        Whether p(z) itself is scored (if ln Z is exact), and not a lower bound of it.
    """

    n_latent: int
    n_chains: int
    has_exact_log_partition: bool
    trains_exactly: bool
    samples_exactly: bool = False
    scores_exactly: bool = True

    def why_not_exact(self) -> str:
        """Tell why the exact ln Z cannot be used, for an error message."""
        raise NotImplementedError

    def energy(self, z: Tensor) -> Tensor:
        """E(z) in nats: (..., D) -> (...)."""
        raise NotImplementedError

    def mean_energy(self, z: Tensor) -> Tensor:
        """Mean energy of rows, without a gradient with respect to the rows: (n, D) -> scalar."""
        return self.energy(z.detach()).mean()

    def log_partition(self) -> Tensor:
        """Exact ln Z, scalar, differentiable."""
        raise NotImplementedError

    def log_partition_among(self, ranks: Ranks) -> Tensor:
        """Exact ln Z, as `log_partition`, for which all ``ranks`` may compute a part."""
        return self.log_partition()

    def log_partition_interval(
        self, generator: torch.Generator, effort: int = 1
    ) -> LogPartitionInterval:
        """Bounds of ln Z, equal if it is exact; ``effort`` multiplies the steps of annealing."""
        raise NotImplementedError

    def quick_log_partition(self, generator: torch.Generator) -> float:
        """Estimate of ln Z that is precise enough to monitor training, once per epoch."""
        raise NotImplementedError

    def is_far_from_underflow(self) -> bool:
        """Whether `unchecked_log_partition` may replace `log_partition` in the next epoch.

        Evaluated once per epoch. False if it would not save time.
        """
        return False

    def unchecked_log_partition(self) -> Tensor:
        """Exact ln Z, as `log_partition`, or nan; computed without waiting for the device."""
        return self.log_partition()

    def make_transition(self) -> Transition:
        """Return a Markov step (z, generator) -> z that leaves p(z) unchanged: (n, D) -> (n, D).

        It uses the current parameters at each call. Its sampler starts without a state.
        """
        raise NotImplementedError

    def transition(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Make one Markov step: (n, D) -> (n, D)."""
        return self.make_transition()(z, generator)

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw from p(z): (n, D)."""
        raise NotImplementedError

    def noise(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw starting points of Markov chains: (n, D)."""
        raise NotImplementedError

    def set_base(self, mean: Tensor, variance: Tensor) -> None:
        """Set the base of annealing to the moments of the aggregated posterior, each (D,)."""

    def initialise(self, rows: Tensor, generator: torch.Generator) -> None:
        """Initialise the parameters from rows, (n, D), to train without an autoencoder."""

    def attach(
        self,
        encoder: nn.Module,
        posterior: Posterior,
        rows: Tensor,
        likelihood: Likelihood,
        generator: torch.Generator,
    ) -> None:
        """Receive the parts of the autoencoder in which the density will be trained.

        Parameters
        ----------
        encoder : Module, (..., n_features) -> (..., posterior outputs)
            It is trained as a part of the autoencoder: do not register it as a submodule.
        posterior : Module of `skevae.posteriors`
            Do not register it either.
        rows : Tensor of shape (n, n_features)
            Training rows, as passed to the encoder.
        likelihood : Module of `skevae.likelihoods`
            Do not register it either. It defines the support of the rows.
        generator : torch.Generator
        """


class NormalizedDensity(Density):
    """Base class of the densities with a closed-form normalisation and independent draws.

    A subclass defines ln p(z) and `sample`. E(z) = -ln p(z), so that ln Z = 0.
    """

    has_exact_log_partition = True
    trains_exactly = True
    samples_exactly = True
    n_chains = 256

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.n_latent = n_latent
        # Has the device and dtype of the module, also without parameters.
        self.anchor: Tensor
        self.register_buffer("anchor", torch.zeros(()))

    def log_density(self, z: Tensor) -> Tensor:
        """ln p(z) in nats: (..., D) -> (...)."""
        raise NotImplementedError

    def energy(self, z: Tensor) -> Tensor:
        return -self.log_density(z)

    def log_partition(self) -> Tensor:
        return self.anchor.clone()

    @torch.no_grad()
    def log_partition_interval(
        self, generator: torch.Generator, effort: int = 1
    ) -> LogPartitionInterval:
        value = self.log_partition().item()
        return LogPartitionInterval(value, value)

    def quick_log_partition(self, generator: torch.Generator) -> float:
        return self.log_partition_interval(generator).high

    def make_transition(self) -> Transition:
        return IndependentDraws(self)

    def noise(self, n_samples: int, generator: torch.Generator) -> Tensor:
        return self.sample(n_samples, generator)


class IndependentDraws(Transition):
    """Draws from a density that do not depend on the current states of the chains.

    Parameters
    ----------
    density : Density
    """

    def __init__(self, density: Density) -> None:
        self.density = density

    def __call__(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return self.density.sample(z.shape[0], generator)


class AnnealedDensity(Density):
    """Base class of the densities with a Markov sampler, and ln Z by annealing from a Gaussian.

    A subclass defines `as_energy` and `checked_sampler`, and sets `sampler`.

    Parameters
    ----------
    n_latent : int
    n_chains : int
        Number of persistent chains in training.

    Attributes
    ----------
    sampler : Sampler
        Sampler of the Markov chains. Each `make_transition` uses a clone.
    """

    sampler: Sampler

    def __init__(self, n_latent: int, n_chains: int) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.n_chains = n_chains
        self.base_mean: Tensor
        self.base_variance: Tensor
        self.register_buffer("base_mean", torch.zeros(n_latent))
        self.register_buffer("base_variance", torch.ones(n_latent))

    def set_base(self, mean: Tensor, variance: Tensor) -> None:
        self.base_mean.copy_(mean)
        self.base_variance.copy_(variance)

    def as_energy(self) -> Any:
        """Return the energy at the current parameters; it is differentiable."""
        raise NotImplementedError

    def checked_sampler(self, sampler: str | Sampler) -> Sampler:
        """Return a sampler from a name or an object, with the settings of this density.

        Raises
        ------
        ValueError
            If it cannot sample this density, or one of its parameters is out of its range.
        """
        raise NotImplementedError

    def energy(self, z: Tensor) -> Tensor:
        return self.as_energy()(z)

    def make_transition(self) -> SamplerTransition:
        return SamplerTransition(clone(self.sampler), self.as_energy)

    def noise(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw starting points of Markov chains from the base of annealing, a Gaussian: (n, D)."""
        noise = standard_normal((n_samples, self.n_latent), generator, self.base_mean)
        return self.base_mean + self.base_variance.sqrt() * noise


def rows_at_once(density: Density, itemsize: int) -> int:
    """Number of rows whose energies can be computed at once within the memory budget."""
    # A row holds its features and hidden units a few times over.
    width = sum(parameter.numel() for parameter in density.parameters()) // density.n_latent
    return max(1, memory_budget() // (8 * itemsize * (width + density.n_latent)))
