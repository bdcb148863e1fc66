r"""Training objectives: a bound for each row, with ln Z estimated as the user chose.

With draws z_1..z_n ~ q(z | x) and log-ratios r_k = -E(z_k) - ln q(z_k | x), every objective is

.. math::
    \mathrm{reduce}_k\,[\ln p(x \mid z_k) + r_k] - \widehat{\ln Z}

where reduce is the mean ("elbo") or the log of the mean exponential ("iwae"; Burda et al. 2016),
and the estimate of ln Z is one of `PARTITIONS`. The pairs ("elbo", "posterior") and ("iwae",
"posterior") are eqs. 3 and 5 of "Variational Inference with Unnormalized Priors".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from skevae.densities import Density
from skevae.partition import log_mean_exp
from skevae.posteriors import Posterior
from skevae.samplers import PersistentChains

# Keeps the base of an annealing run proper if all chains agree in a dimension.
MIN_BASE_VARIANCE = 1e-3

# A reference value of ln Z is renewed when it is older than a quarter of the training so far, or
# than this many steps.
REFERENCE_STEPS = 1000

# Transitions of a chain from noise, the second half of which is averaged.
NOISE_TRANSITIONS = 10


class LatentDraws(NamedTuple):
    """What the bounds are made of, for each draw z ~ q(z | x) and each row x; logs in nats."""

    log_likelihood: Tensor  # ln p(x | z), (n_draws, n)
    energy: Tensor  # E(z), (n_draws, n)
    log_posterior: Tensor  # ln q(z | x), (n_draws, n)
    z: Tensor  # (n_draws, n, D)
    posterior_outputs: Tensor  # the encoder's, (n, k D)


class PartitionEstimate:
    """How a training step obtains ln Z.

    Parameters
    ----------
    density : Module with the interface of `skevae.densities.Density`
    generator : torch.Generator
    """

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        self.density = density
        self.generator = generator

    def __call__(self, draws: LatentDraws, posterior: Posterior) -> Tensor:
        """Estimate ln Z: scalar, or (n,) for each row."""
        raise NotImplementedError

    def refresh(self) -> None:
        """Do what is worth doing once an epoch."""

    def note(self, log_partition: float) -> None:
        """Hear a value of ln Z that was worked out for another purpose."""

    def state(self) -> dict[str, Any]:
        """What another estimate of this kind could go on from, on the CPU."""
        return {}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of another."""


class PosteriorPartition(PartitionEstimate):
    """The paper's: ln of the mean of exp(r_k) over the row's own draws (eq. 3).

    It only sees the mass of exp(-E) near the row's own posterior. The estimate of Z is unbiased,
    so that of ln Z errs low and the objective errs high, without limit: with one draw it is the
    reconstruction term alone. It is no bound of the likelihood.
    """

    def __call__(self, draws: LatentDraws, posterior: Posterior) -> Tensor:
        return log_mean_exp(-draws.energy - draws.log_posterior)


class AggregatePartition(PartitionEstimate):
    """Importance sampling from the minibatch's posteriors, pooled as one mixture proposal.

    All draws of all rows estimate one ln Z, each weighted against the density of the mixture
    (the balance heuristic of Veach & Guibas 1995). It sees what the aggregated posterior covers,
    which is enough in few dimensions and misses almost all of Z in many.
    """

    def __call__(self, draws: LatentDraws, posterior: Posterior) -> Tensor:
        z = draws.z.flatten(0, 1)
        log_mixture = log_mean_exp(posterior.pairwise_log_density(z, draws.posterior_outputs), 1)
        return log_mean_exp(-draws.energy.flatten() - log_mixture)


class DensityPartition(PartitionEstimate):
    """An estimate that needs no posterior, by which a density can be trained alone."""

    def __call__(self, draws: LatentDraws, posterior: Posterior) -> Tensor:
        return self.evaluate(draws.z.detach().flatten(0, 1))

    def evaluate(self, z: Tensor) -> Tensor:
        """Estimate ln Z where the training data, or draws of the posteriors, are ``z``, (n, D).

        Returns a scalar whose gradient is that of ln Z or an estimate of it.
        """
        raise NotImplementedError


class ExactPartition(DensityPartition):
    """ln Z itself."""

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        super().__init__(density, generator)
        if not density.has_exact_log_partition:
            raise ValueError(
                f"partition='exact' is out of reach of this prior: {density.describe_size()}. Use "
                "a smaller prior, partition='persistent', or partition='auto'."
            )

    def evaluate(self, z: Tensor) -> Tensor:
        return self.density.log_partition()


class ChainPartition(DensityPartition):
    """Markov chains, whose mean energy gradient is that of -ln Z.

    Chains cannot give a value: what is reported is a reference by annealing, which costs as much as
    many steps. It is a value that was worked out for the validation of the epoch before, or else
    one that is renewed from time to time.
    """

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        super().__init__(density, generator)
        self.transition = density.make_transition()
        self.reference: float | None = None
        self.noted: float | None = None
        self.reference_step = 0
        # What changes from step to step is on the device, where steps that are replayed find it.
        self.n_steps = torch.zeros((), dtype=torch.int64, device=generator.device)
        self._reported: Tensor | None = None

    def refresh(self) -> None:
        age = int(self.n_steps) - self.reference_step
        if self.noted is not None:
            self._refer_to(self.noted)
        elif self.reference is None or age > min(REFERENCE_STEPS, 1 + int(self.n_steps) // 4):
            self._refer_to(self._value())

    def note(self, log_partition: float) -> None:
        """Take a value of ln Z at about the present parameters as the next reference."""
        self.noted = log_partition

    def state(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in ("reference", "noted", "reference_step")}
        return {**state, "n_steps": int(self.n_steps)}

    def resume(self, state: dict[str, Any]) -> None:
        self.n_steps.fill_(state["n_steps"])
        self.reference_step = state["reference_step"]
        self.noted = state["noted"]
        self.reference = state["reference"]

    def _refer_to(self, log_partition: float) -> None:
        self.reference, self.reference_step = log_partition, int(self.n_steps)
        self.noted = None
        if self._reported is not None:
            self._reported.fill_(log_partition)

    def _value(self) -> float:
        return self.density.quick_log_partition(self.generator)

    def _surrogate(self, negatives: Tensor) -> Tensor:
        """Return the reference, with minus the gradient of the mean energy of ``negatives``."""
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
        super().resume({name: value for name, value in state.items() if name != "chains"})
        if state["chains"] is not None:
            self.chains = PersistentChains(state["chains"].to(self.generator.device))

    def evaluate(self, z: Tensor) -> Tensor:
        if self.chains is None:
            start = self.density.sample(self.density.n_chains, self.generator)
            self.chains = PersistentChains(start)
        return self._surrogate(self.chains.advance(self.transition, self.generator))


class ContrastivePartition(ChainPartition):
    """Contrastive divergence: chains start at the data and run one transition (Hinton 2002).

    Biased: short chains see only the neighbourhood of the data.
    """

    def evaluate(self, z: Tensor) -> Tensor:
        return self._surrogate(self.transition(z, self.generator))


class NoiseContrastivePartition(ChainPartition):
    """Contrastive divergence as modified by Liao et al. (2022): chains start from noise.

    They run `NOISE_TRANSITIONS` transitions, and the energy gradient is averaged over the second
    half of them. Biased as far as the chains have not forgotten the noise.
    """

    def evaluate(self, z: Tensor) -> Tensor:
        states = []
        state = self.density.noise(z.shape[0], self.generator)
        for _ in range(NOISE_TRANSITIONS):
            state = self.transition(state, self.generator)
            states.append(state)
        return self._surrogate(torch.cat(states[NOISE_TRANSITIONS // 2 :]))


PARTITIONS: dict[str, type[PartitionEstimate]] = {
    "posterior": PosteriorPartition,
    "aggregate": AggregatePartition,
    "exact": ExactPartition,
    "persistent": PersistentPartition,
    "contrastive": ContrastivePartition,
    "contrastive-from-noise": NoiseContrastivePartition,
}


# The estimates that need no posterior, by which a density can be trained alone.
DENSITY_PARTITIONS: dict[str, type[DensityPartition]] = {
    name: kind for name, kind in PARTITIONS.items() if issubclass(kind, DensityPartition)
}


class Objective:
    """What a row's log-weights are reduced to, and how its gradient is estimated."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        """Reduce the draws: (n_draws, n) -> (n,)."""
        raise NotImplementedError

    def check(self, posterior: Posterior, partition: PartitionEstimate) -> None:
        """Raise if it cannot be trained on with these."""

    def reparametrize(
        self, draws: LatentDraws, posterior: Posterior, kl_weight: float
    ) -> LatentDraws:
        """Return draws of the same values, whose bound has the gradient to train on."""
        return draws


class EvidenceLowerBound(Objective):
    """The mean over draws (Kingma & Welling 2014)."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        return log_weights.mean(0)


class ImportanceWeightedBound(Objective):
    """The log of the mean weight (Burda et al. 2016)."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)


class DoublyReparametrizedBound(ImportanceWeightedBound):
    r"""The importance-weighted bound, with the encoder's gradient reparametrised twice.

    With v_k the weight of draw k and w_k its part of their sum, the gradient of the posterior's
    parameters :math:`\phi` reaches them through the draws and, as the score of q, directly. The
    direct part is noise of mean zero or can be led through the draws as well, which leaves

    .. math::
        \nabla_\phi = \sum_k w_k \, (1 - \beta + \beta w_k) \,
            \frac{\partial \ln v_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}

    where :math:`\beta` is the power of prior and posterior in v_k: 1, which makes it :math:`w_k^2`
    (Tucker et al. 2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives",
    eq. 8), or less while warming up. It has the same mean as the gradient of the bound, and its
    variance vanishes as q becomes the true posterior. The value, and the gradients of decoder and
    prior, are those of the bound.
    """

    def check(self, posterior: Posterior, partition: PartitionEstimate) -> None:
        if not posterior.has_log_density:
            raise ValueError(
                "objective='iwae-dreg' needs the density of the posterior at given latents, for "
                f"which {type(posterior).__name__} would be inverted at every step. Use "
                "objective='iwae', or posterior='diagonal' or 'fixed'."
            )
        if not isinstance(partition, DensityPartition):
            raise ValueError(
                "objective='iwae-dreg' cannot be combined with an estimate of ln Z from the "
                f"posteriors' draws ({type(partition).__name__}), whose gradient would be weighted "
                "like that of the bound. Use objective='iwae', or partition='auto'."
            )

    def reparametrize(
        self, draws: LatentDraws, posterior: Posterior, kl_weight: float
    ) -> LatentDraws:
        log_ratio = (-draws.energy - draws.log_posterior).detach()
        share = (draws.log_likelihood.detach() + kl_weight * log_ratio).softmax(0).unsqueeze(-1)
        if draws.z.requires_grad:  # not under an encoder that the user has frozen
            draws.z.register_hook(lambda gradient: gradient * (1 - kl_weight + kl_weight * share))
        # The parameters of q held, z not.
        held = posterior.log_density(draws.z, draws.posterior_outputs.detach())
        return draws._replace(log_posterior=held)


OBJECTIVES: dict[str, Objective] = {
    "elbo": EvidenceLowerBound(),
    "iwae": ImportanceWeightedBound(),
    "iwae-dreg": DoublyReparametrizedBound(),
}


def resolve_partition(choices: Sequence[str], density: Density) -> str:
    """Take the first choice that is not "auto"; else exact where a step can afford it."""
    affordable = "exact" if density.trains_exactly else "persistent"
    return next((choice for choice in choices if choice != "auto"), affordable)


def negative_bound(
    draws: LatentDraws, log_partition: Tensor, objective: Objective, kl_weight: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a minibatch and its named terms.

    Parameters
    ----------
    draws : LatentDraws
    log_partition : Tensor, scalar or (n,)
        Estimate of ln Z.
    objective : Objective
    kl_weight : float
        Weight of all terms but the reconstruction, below 1 while warming up.

    Returns
    -------
    loss : Tensor, scalar
        Minus the mean (weighted) bound, in nats.
    terms : dict of str to Tensor, scalars, detached
        "objective" (the bound at weight 1), "reconstruction" E[ln p(x | z)], "energy" E[E(z)] and
        "log_partition", each a mean over the minibatch, in nats.
    """
    log_ratio = -draws.energy - draws.log_posterior
    bound = objective(draws.log_likelihood + log_ratio) - log_partition
    weighted = bound
    if kl_weight != 1.0:
        weighted = objective(draws.log_likelihood + kl_weight * log_ratio)
        weighted = weighted - kl_weight * log_partition
    terms = {
        "objective": bound.mean(),
        "reconstruction": draws.log_likelihood.mean(),
        "energy": draws.energy.mean(),
        "log_partition": log_partition.mean(),
    }
    return -weighted.mean(), {name: term.detach() for name, term in terms.items()}
