"""Annealed importance sampling: an interval for ln Z if it is not exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from skevae.utils.log_mean import log_mean_exp, log_mean_exp_error
from skevae.utils.random import standard_normal
from skevae.utils.weights import by_weight

# One Markov step (energy, z, generator) -> z that leaves exp(-energy) unchanged.
Sweep = Callable[[Any, Tensor, torch.Generator], Tensor]


# Sequential Monte Carlo resamples if the effective sample size is below this fraction of chains.
RESAMPLING_SHARE = 0.5


class Path(Protocol):
    """Interface of a path from a diagonal Gaussian to a target, for annealing."""

    @property
    def base_mean(self) -> Tensor:
        """Mean of the Gaussian, (D,)."""

    @property
    def base_variance(self) -> Tensor:
        """Variance of the Gaussian, (D,)."""

    def log_base_partition(self) -> Tensor:
        """Ln Z at beta = 0, scalar."""

    def log_increment(self, z: Tensor, beta_from: float, beta_to: float) -> Tensor:
        """ln f_to(z) - ln f_from(z) for each row: (n, D) -> (n,)."""

    def at(self, beta: float) -> Any:
        """Return the energy at ``beta``."""


class LogPartitionInterval(NamedTuple):
    """Bounds of ln Z in nats; equal if ln Z is exact.

    They are certified: exact, or valid with a probability of at least 0.999.
    """

    low: float
    high: float

    @property
    def is_certified(self) -> bool:
        """Whether the bounds are certified, or come from Markov chains that may miss a mode."""
        return True


class EstimatedInterval(LogPartitionInterval):
    """Bounds of ln Z from Markov chains: valid if the chains have found all modes."""

    @property
    def is_certified(self) -> bool:
        """False: the bounds are estimates."""
        return False


def draw_base(path: Path, n_chains: int, generator: torch.Generator) -> Tensor:
    """Draw from the Gaussian at beta = 0: (n_chains, D)."""
    noise = standard_normal((n_chains, path.base_mean.numel()), generator, path.base_mean)
    return path.base_mean + path.base_variance.sqrt() * noise


@torch.no_grad()
def anneal_forward(
    path: Path,
    sweep: Sweep,
    generator: torch.Generator,
    *,
    n_chains: int,
    n_betas: int,
) -> tuple[Tensor, Tensor]:
    r"""Annealed importance sampling from the base to the target (Neal 2001).

    The mean of exp(log-weight) is an unbiased estimate of Z, so its logarithm is a lower
    bound of ln Z in expectation.

    Returns
    -------
    log_weights : Tensor of shape (n_chains,)
        Each is an estimate of ln Z, including that of the base.
    z : Tensor of shape (n_chains, n_visible)
        The ends of the chains: approximate draws from the target.
    """
    z = draw_base(path, n_chains, generator)
    log_weights = path.log_base_partition().expand(n_chains).clone()
    for step in range(1, n_betas + 1):
        log_weights += path.log_increment(z, (step - 1) / n_betas, step / n_betas)
        z = sweep(path.at(step / n_betas), z, generator)
    return log_weights, z


@torch.no_grad()
def anneal_reverse(
    path: Path,
    sweep: Sweep,
    generator: torch.Generator,
    z: Tensor,
    *,
    n_betas: int,
) -> Tensor:
    """Run the same path backwards from draws ``z`` of the target (n_chains, n_visible).

    Returns
    -------
    Tensor of shape (n_chains,)
        Each is minus an estimate of ln Z. The mean of their exponentials is an unbiased estimate of
        1 / Z if the draws are exact, so minus its logarithm is an upper bound in expectation
        (Grosse, Ancha & Roy 2016).
    """
    log_weights = (-path.log_base_partition()).expand(z.shape[0]).clone()
    for step in range(n_betas, 0, -1):
        z = sweep(path.at(step / n_betas), z, generator)
        log_weights += path.log_increment(z, step / n_betas, (step - 1) / n_betas)
    return log_weights


@torch.no_grad()
def anneal_population(
    path: Path, sweep: Sweep, generator: torch.Generator, *, n_chains: int, n_betas: int
) -> Tensor:
    """Draw from the target by sequential Monte Carlo (Del Moral, Doucet & Jasra 2006).

    Chains are annealed from the base as in `anneal_forward`, and resampled by their weights when
    these become uneven. Unlike a single chain from noise, the population represents the right mass
    of each mode, even if chains do not cross between modes.

    Returns
    -------
    Tensor of shape (n_chains, D)
        Equally weighted, in random order; exact in the limit of many chains. Some may share an
        ancestor.
    """
    z = draw_base(path, n_chains, generator)
    log_weights = z.new_zeros(n_chains)
    for step in range(1, n_betas + 1):
        log_weights += path.log_increment(z, (step - 1) / n_betas, step / n_betas)
        weights = log_weights.softmax(0)
        if step == n_betas or weights.square().sum() * n_chains * RESAMPLING_SHARE > 1:
            z = z[by_weight(weights, n_chains, generator)]
            log_weights = torch.zeros_like(log_weights)
        z = sweep(path.at(step / n_betas), z, generator)
    return z[torch.randperm(n_chains, generator=generator, device=z.device)]


def annealed_interval(
    path: Path,
    sweep: Sweep,
    generator: torch.Generator,
    start: Callable[[int, Tensor], Tensor],
    *,
    n_chains: int = 100,
    n_betas: int = 1000,
) -> EstimatedInterval:
    """Bound ln Z by forward and reverse annealing, each widened by two standard errors.

    Parameters
    ----------
    path : Path
    sweep : callable
        One Markov step, such as a block-Gibbs sweep, for the given energy.
    generator : torch.Generator
    start : callable (n_chains, forward_ends) -> Tensor of shape (n_chains, n_visible)
        Draws from the target, from which the reverse runs start, given the ends of the forward
        chains.
    n_chains, n_betas : int

    Returns
    -------
    EstimatedInterval
        In nats. ``low`` is a lower bound in expectation, and ``high`` an upper bound.
    """
    forward, ends = anneal_forward(path, sweep, generator, n_chains=n_chains, n_betas=n_betas)
    reverse = anneal_reverse(path, sweep, generator, start(n_chains, ends), n_betas=n_betas)
    low = log_mean_exp(forward) - 2 * log_mean_exp_error(forward)
    high = -log_mean_exp(reverse) + 2 * log_mean_exp_error(reverse)
    # By chance, the two bounds can cross; use the wider interval then.
    return EstimatedInterval(min(low.item(), high.item()), max(low.item(), high.item()))
