"""The gradient of ln Z from Markov chains: persistent or contrastive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from skevae.densities.base import Density
from skevae.partitions.base import MIN_BASE_VARIANCE, DensityPartition
from skevae.posteriors.base import Posterior
from skevae.posteriors.draws import LatentDraws
from skevae.samplers.chains import PersistentChains

# A reference value of ln Z is renewed when it is older than a quarter of the training so far, or
# than this many steps.
REFERENCE_STEPS = 1000

# Number of transitions of a chain from noise. The gradient is averaged over the second half.
NOISE_TRANSITIONS = 10


class ChainPartition(DensityPartition):
    """Base class of the estimates by Markov chains, whose mean energy gradient is that of -ln Z.

    Chains give a gradient but no value. The reported value is a reference computed by annealing,
    which costs as much as many steps. It is the value from the validation of the previous epoch, or
    else a value that is updated from time to time.
    """

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        super().__init__(density, generator)
        self.transition = density.make_transition()
        self.reference: float | None = None
        self.noted: float | None = None
        self.reference_step = 0
        # On the device, so that replayed steps of a CUDA graph can change it.
        self.n_steps = torch.zeros((), dtype=torch.int64, device=generator.device)
        self._reported: Tensor | None = None

    def refresh(self) -> None:
        age = int(self.n_steps) - self.reference_step
        if self.noted is not None:
            self._refer_to(self.noted)
        elif self.reference is None or age > min(REFERENCE_STEPS, 1 + int(self.n_steps) // 4):
            self._refer_to(self._value())

    def note(self, log_partition: float) -> None:
        """Use a value of ln Z at about the current parameters as the next reference."""
        self.noted = log_partition

    def state(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in ("reference", "noted", "reference_step")}
        return {**state, "n_steps": int(self.n_steps), "transition": self.transition.state()}

    def resume(self, state: dict[str, Any]) -> None:
        self.n_steps.fill_(state["n_steps"])
        self.reference_step = state["reference_step"]
        self.noted = state["noted"]
        self.reference = state["reference"]
        self.transition.resume(state["transition"])

    def divided(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        # The state of a sampler belongs to its chains, which are different now.
        return {**states[0], "transition": {}}

    def _refer_to(self, log_partition: float) -> None:
        self.reference, self.reference_step = log_partition, int(self.n_steps)
        self.noted = None
        if self._reported is not None:
            self._reported.fill_(log_partition)

    def _value(self) -> float:
        return self.density.quick_log_partition(self.generator)

    def _surrogate(self, negatives: Tensor) -> Tensor:
        """Return the reference, with the gradient of minus the mean energy of ``negatives``."""
        if self.reference is None:
            self._refer_to(self._value())
        self.n_steps += 1
        mean_energy = self.density.mean_energy(negatives)
        if self._reported is None:
            self._reported = torch.full_like(mean_energy, cast(float, self.reference))
        return mean_energy.detach() - mean_energy + self._reported


class PersistentPartition(ChainPartition):
    """Chains that persist from step to step (stochastic maximum likelihood; Tieleman 2008)."""

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        super().__init__(density, generator)
        self.chains: PersistentChains | None = None

    def refresh(self) -> None:
        if self.chains is not None:
            state = self.chains.state
            self.density.set_base(state.mean(0), state.var(0, correction=0) + MIN_BASE_VARIANCE)
        super().refresh()

    def state(self) -> dict[str, Any]:
        chains = None if self.chains is None else self.chains.state.cpu()
        return {**super().state(), "chains": chains}

    def resume(self, state: dict[str, Any]) -> None:
        super().resume(state)
        if state["chains"] is not None:
            self.chains = PersistentChains(state["chains"].to(self.generator.device))

    def divided(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        present = [state["chains"] for state in states if state["chains"] is not None]
        chains = torch.cat(present)[self.ranks.rank :: self.ranks.size] if present else None
        return {**super().divided(states), "chains": chains}

    def evaluate(self, z: Tensor) -> Tensor:
        if self.chains is None:
            n_chains = self.ranks.share(self.density.n_chains)
            start = self.density.sample(n_chains, self.generator)
            self.chains = PersistentChains(start)
        return self._surrogate(self.chains.advance(self.transition, self.generator))


class ContrastivePartition(ChainPartition):
    """Contrastive divergence: chains start at the data and run one transition (Hinton 2002).

    If the draws from the posteriors are weighted, chains start at draws that are resampled by the
    weights, so that the gradients of the positive and negative phase cancel if the model is
    correct. The estimate is biased, because short chains stay near the data.
    """

    starts_at_rows = True

    def __call__(
        self, draws: LatentDraws, posterior: Posterior, log_weights: Tensor | None = None
    ) -> Tensor:
        z = draws.z.detach()
        if log_weights is not None:
            z = resampled(z, log_weights, self.generator)
        return self.evaluate(z.flatten(0, 1))

    def evaluate(self, z: Tensor) -> Tensor:
        return self._surrogate(self.transition(z, self.generator))


class NoiseContrastivePartition(ChainPartition):
    """Contrastive divergence as modified by Liao et al. (2022): chains start from noise.

    They make `NOISE_TRANSITIONS` transitions, and the energy gradient is averaged over the second
    half of them. The estimate is biased if the chains still depend on the noise.
    """

    def evaluate(self, z: Tensor) -> Tensor:
        states = []
        state = self.density.noise(z.shape[0], self.generator)
        for _ in range(NOISE_TRANSITIONS):
            state = self.transition(state, self.generator)
            states.append(state)
        return self._surrogate(torch.cat(states[NOISE_TRANSITIONS // 2 :]))


def resampled(z: Tensor, log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Resample the draws of each row by their weights: (n_draws, n, D), (n_draws, n) -> like z.

    Systematic resampling: draw k of a row is repeated n_draws w_k times in expectation.
    """
    n_draws, n_rows = log_weights.shape
    cumulative = log_weights.detach().softmax(0).cumsum(0).mT.contiguous()
    dtype, device = cumulative.dtype, cumulative.device
    offset = torch.rand((n_rows, 1), generator=generator, dtype=dtype, device=device)
    comb = (torch.arange(n_draws, dtype=dtype, device=device) + offset) / n_draws
    chosen = torch.searchsorted(cumulative, comb, right=True).clamp(max=n_draws - 1)
    return z.gather(0, chosen.mT[..., None].expand_as(z))
