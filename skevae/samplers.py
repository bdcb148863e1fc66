"""Samplers: Markov transitions of an energy, and exact independent draws where there are any."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skevae._random import binary, standard_normal
from skevae.energies import AnnealingPath, GaussianBernoulliEnergy, SmoothEnergy
from skevae.ising import IsingModel

# Sweeps that a tempered replica makes alone before it takes part in exchanges.
RELAXATION_SWEEPS = 100

Transition = Callable[[Tensor, torch.Generator], Tensor]


def sample_hidden(energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator) -> Tensor:
    """Draw h from p(h | z): (..., n_visible) -> (..., n_hidden)."""
    return binary(energy.hidden_logits(z).sigmoid_(), generator)


def sample_visible(
    energy: GaussianBernoulliEnergy, h: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw z from p(z | h): (..., n_hidden) -> (..., n_visible)."""
    mean = energy.conditional_mean(h)
    return mean + energy.variance.sqrt() * standard_normal(mean.shape, generator, mean)


@torch.no_grad()
def block_gibbs(
    energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, n_steps: int = 1
) -> Tensor:
    """Run ``n_steps`` sweeps h ~ p(h | z), z ~ p(z | h), which leave p(z) unchanged.

    Parameters
    ----------
    energy : GaussianBernoulliEnergy
    z : Tensor of shape (n, n_visible)
        Where each chain stands.
    generator : torch.Generator
    n_steps : int

    Returns
    -------
    Tensor of shape (n, n_visible)
    """
    for _ in range(n_steps):
        z = sample_visible(energy, sample_hidden(energy, z, generator), generator)
    return z


@torch.no_grad()
def exact_sample(
    energy: GaussianBernoulliEnergy, n_samples: int, generator: torch.Generator
) -> Tensor:
    """Draw independent rows from p(z): h from the tables of its Ising model, then z given h.

    The tables are made in float64, whatever the dtype of the energy.
    """
    bias, coupling, _ = energy.to(torch.float64).hidden_machine()
    h = IsingModel(bias, coupling).sample(n_samples, generator)
    return sample_visible(energy, h.to(energy.weight.dtype), generator)


def draw_components(weights: Tensor, n_samples: int, generator: torch.Generator) -> Tensor:
    """Draw indices with probabilities ``weights``, (K,) -> (n_samples,)."""
    cumulative = weights.cumsum(0)
    uniform = torch.rand(n_samples, generator=generator, dtype=weights.dtype, device=weights.device)
    # Not torch.multinomial, which raises where a diverging run has made a weight nan.
    return torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp(max=weights.numel() - 1)


class Sampler:
    """A Markov transition that leaves p(z), or nearly so p(z), unchanged.

    Parameters
    ----------
    n_steps : int
        Elementary steps of one transition.
    step_size : float
        Of Langevin steps, in units of each dimension's sigma.

    Attributes
    ----------
    acceptance_rate : float
        Share of the Metropolis tests passed so far; nan where there were none.
    """

    def __init__(self, n_steps: int = 1, step_size: float = 0.3) -> None:
        self.n_steps = n_steps
        self.step_size = step_size
        self._accepted: Tensor | None = None
        self._proposed = 0

    def __call__(self, energy: Any, z: Tensor, generator: torch.Generator) -> Tensor:
        """Make one transition of every chain: (n, n_visible) -> (n, n_visible)."""
        with torch.no_grad():
            for step in range(self.n_steps):
                z = self.step(energy, z, generator, step)
        return z

    def step(self, energy: Any, z: Tensor, generator: torch.Generator, index: int) -> Tensor:
        """Make elementary step number ``index`` of a transition."""
        raise NotImplementedError

    @property
    def acceptance_rate(self) -> float:
        return math.nan if self._accepted is None else float(self._accepted) / self._proposed

    def _metropolis(
        self, z: Tensor, proposal: Tensor, log_ratio: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Accept each row of the proposal with probability min(1, exp(log_ratio))."""
        uniform = torch.rand(
            log_ratio.shape, generator=generator, dtype=z.dtype, device=log_ratio.device
        )
        accept = uniform.log() < log_ratio
        if self._accepted is None:
            self._accepted = torch.zeros((), dtype=torch.int64, device=z.device)
        self._accepted += accept.sum()
        self._proposed += accept.numel()
        return torch.where(accept.unsqueeze(-1), proposal, z)


class BlockGibbs(Sampler):
    """Block Gibbs sweeps, exact in each conditional."""

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        return block_gibbs(energy, z, generator)


class Langevin(Sampler):
    r"""Unadjusted Langevin steps, preconditioned by sigma.

    .. math::
        z' = z - \tfrac{\epsilon^2}{2} \sigma^2 \nabla E(z) + \epsilon \sigma \xi,
        \qquad \xi \sim N(0, I)

    It targets exp(-E) whatever the number of chains, up to a bias of order epsilon squared: the
    energy never sees a batch size, and noise and drift always keep this ratio. The energy is any
    `skevae.energies.SmoothEnergy`.

    Parameters
    ----------
    n_steps : int
    step_size : float
    n_scales : int
        The steps of a transition have ``step_size``, 1/2, 1/4, ... of it, this many in turn, for
        energies whose own scales are not known: some step always suits where a chain stands.
    """

    adjusted = False

    def __init__(self, n_steps: int = 1, step_size: float = 0.3, n_scales: int = 1) -> None:
        super().__init__(n_steps, step_size)
        self.n_scales = n_scales

    def step(
        self, energy: SmoothEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        step_size = self.step_size * 0.5 ** (index % self.n_scales)
        return self._langevin_step(
            z, energy.value_and_gradient, energy.variance, step_size, generator
        )

    def _langevin_step(
        self,
        z: Tensor,
        value_and_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
        variance: Tensor,
        step_size: float,
        generator: torch.Generator,
    ) -> Tensor:
        drift = 0.5 * step_size**2 * variance
        spread = step_size * variance.sqrt()
        value, gradient = value_and_gradient(z)
        noise = standard_normal(z.shape, generator, z)
        proposal = z - drift * gradient + spread * noise
        if not self.adjusted:
            return proposal
        proposed_value, proposed_gradient = value_and_gradient(proposal)
        back = (z - proposal + drift * proposed_gradient) / spread
        log_ratio = value - proposed_value
        log_ratio = log_ratio + 0.5 * (noise.square() - back.square()).sum(-1)
        return self._metropolis(z, proposal, log_ratio, generator)


class MetropolisLangevin(Langevin):
    """Langevin steps with a Metropolis test (MALA; Roberts & Tweedie 1996): no bias left."""

    adjusted = True


class GibbsLangevin(Langevin):
    r"""Langevin within Gibbs (Liao et al. 2022): h ~ p(h | z), then Langevin steps on z given h.

    Its step sizes are annealed: over the n steps of a transition they fall linearly from
    (2 - 1/n) times ``step_size`` to ``step_size``.
    """

    def step(self, energy: Any, z: Tensor, generator: torch.Generator, index: int) -> Tensor:
        mean = energy.conditional_mean(sample_hidden(energy, z, generator))
        annealed = self.step_size * (2 - (index + 1) / self.n_steps)

        def value_and_gradient(y: Tensor) -> tuple[Tensor, Tensor]:
            gradient = (y - mean) / energy.variance
            return 0.5 * (gradient * (y - mean)).sum(-1), gradient

        return self._langevin_step(z, value_and_gradient, energy.variance, annealed, generator)


class MetropolisGibbsLangevin(GibbsLangevin):
    """`GibbsLangevin` with a Metropolis test of each step on the joint of z and h: no bias left."""

    adjusted = True


class ExactSampler(Sampler):
    """Independent draws, which forget where the chains stood (2^(H+1) operations each time).

    One step is as good as any number of them.
    """

    def __init__(self, n_steps: int = 1, step_size: float = 0.3) -> None:
        super().__init__(1, step_size)

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        return exact_sample(energy, z.shape[0], generator)


class ParallelTempering(Sampler):
    """Block Gibbs at several temperatures that exchange states, to cross between modes.

    Replicas stand on a path from a broad Gaussian with free hidden units, where every mode is
    reached at once, to the target (Swendsen & Wang 1986; Geyer 1991). A transition makes
    ``n_steps`` rounds of a sweep of all replicas and exchanges between neighbours.

    Parameters
    ----------
    n_steps : int
    step_size : float
        Not used.
    n_replicas : int
        Temperatures, target included.
    """

    def __init__(self, n_steps: int = 1, step_size: float = 0.3, n_replicas: int = 12) -> None:
        super().__init__(n_steps, step_size)
        self.betas = [k / (n_replicas - 1) for k in range(n_replicas)]
        self._replicas: Tensor | None = None  # (n_replicas, n, n_visible)

    def step(
        self, energy: GaussianBernoulliEnergy, z: Tensor, generator: torch.Generator, index: int
    ) -> Tensor:
        path = self._path(energy)
        if self._replicas is None or self._replicas[0].shape != z.shape:
            # Nothing is exchanged before each replica is at home at its own temperature, or what
            # the hot ones had not yet forgotten would distort the target.
            at_home = [
                block_gibbs(path.at(beta), z, generator, RELAXATION_SWEEPS) for beta in self.betas
            ]
            self._replicas = torch.stack(at_home)
        replicas = [*self._replicas[:-1], z]
        replicas = [
            block_gibbs(path.at(beta), replica, generator)
            for beta, replica in zip(self.betas, replicas, strict=True)
        ]
        for low in range(len(self.betas) - 1):
            replicas[low : low + 2] = self._exchange(path, replicas, low, generator)
        self._replicas.copy_(torch.stack(replicas))
        return replicas[-1]

    @staticmethod
    def _path(energy: GaussianBernoulliEnergy) -> AnnealingPath:
        """From a Gaussian as broad as the mixture of all hidden configurations can be."""
        centre = energy.conditional_mean(torch.full_like(energy.hidden_bias, 0.5))
        variance = energy.variance + 0.25 * energy.weight.square().sum(1)
        return AnnealingPath(energy, centre, variance)

    def _exchange(
        self, path: AnnealingPath, replicas: list[Tensor], low: int, generator: torch.Generator
    ) -> list[Tensor]:
        """Propose that neighbours change places, chain by chain."""
        cold, hot = replicas[low + 1], replicas[low]
        beta_hot, beta_cold = self.betas[low : low + 2]
        log_ratio = path.log_increment(hot, beta_hot, beta_cold)
        log_ratio = log_ratio + path.log_increment(cold, beta_cold, beta_hot)
        pair = torch.cat([hot, cold], dim=-1)
        swapped = torch.cat([cold, hot], dim=-1)
        return list(self._metropolis(pair, swapped, log_ratio, generator).chunk(2, dim=-1))


# Those that need no more than a gradient, and so serve every smooth energy.
GRADIENT_SAMPLERS: dict[str, type[Langevin]] = {
    "langevin": Langevin,
    "metropolis-langevin": MetropolisLangevin,
}

SAMPLERS: dict[str, type[Sampler]] = {
    "gibbs": BlockGibbs,
    **GRADIENT_SAMPLERS,
    "gibbs-langevin": GibbsLangevin,
    "metropolis-gibbs-langevin": MetropolisGibbsLangevin,
    "parallel-tempering": ParallelTempering,
    "exact": ExactSampler,
}


class PersistentChains:
    """Markov chains that go on from where the last parameter update left them.

    The gradient of -ln Z is the mean energy gradient over the model; chains that persist while
    the parameters move slowly stay close to it (stochastic maximum likelihood, Tieleman 2008).

    Parameters
    ----------
    start : Tensor of shape (n_chains, n_visible)
        Copied.

    Attributes
    ----------
    state : Tensor of shape (n_chains, n_visible)
        Always the same memory, where training steps that are replayed find it.
    """

    def __init__(self, start: Tensor) -> None:
        self.state = start.clone()

    def advance(self, transition: Transition, generator: torch.Generator) -> Tensor:
        """Move every chain by one transition and return `state`."""
        return self.state.copy_(transition(self.state, generator))
