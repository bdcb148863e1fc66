r"""A certified interval of ln Z for restricted Boltzmann machines of any size.

In whitened coordinates u = (z - mu) / sigma the unnormalised density of a Gaussian-Bernoulli RBM is

.. math::
    p(u) \propto \exp\Big(-\tfrac12 |u|^2 + \sum_j \mathrm{softplus}(a_j + v_j \cdot u)\Big).

A softplus is bounded above by a parabola that touches it at plus and minus xi (Jaakkola & Jordan
2000),

.. math::
    \mathrm{softplus}(x) \le \lambda(\xi) (x^2 - \xi^2) + \tfrac12 (x - \xi)
        + \mathrm{softplus}(\xi), \qquad \lambda(\xi) = \tanh(\xi / 2) / (4 \xi).

If this bound replaces all but a few hidden units, the result is a mixture of Gaussians whose
weights form a small Boltzmann machine. Its integral M, an upper bound of Z, and draws from it are
exact. The weight of a draw, the ratio of the density to this envelope, is between 0 and 1 and has
mean Z / M. The mean therefore has confidence bounds without further assumptions (Maurer & Pontil
2009).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skevae.energies import LOG_2PI, GaussianBernoulliEnergy, softplus
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.log_partition.ising import IsingModel
from skevae.utils.random import standard_normal

# Probability that an interval does not contain ln Z.
MISS_PROBABILITY = 1e-3

# Numbers of draws after which the interval is evaluated.
STAGES = (2**15, 2**17, 2**19)

# Number of draws made at once.
DRAWS_AT_ONCE = 2**15

# Number of steps to optimise the points of contact, with parabolas for all units.
N_PASSES = 100

# Number of draws to find the units with the loosest parabolas.
N_PILOT_DRAWS = 4096


class _Whitened(NamedTuple):
    """The density in whitened coordinates."""

    slopes: Tensor  # V, (D, H)
    intercepts: Tensor  # a, (H,)
    log_volume: Tensor  # sum of ln sigma


class Envelope:
    """A mixture of Gaussians that bounds the density of an RBM, with exact integral and draws.

    Parameters
    ----------
    slopes : Tensor of shape (D, H)
        V.
    intercepts : Tensor of shape (H,)
        a.
    exact : Tensor of bool of shape (H,)
        Units that are summed out exactly, without a bound.
    contact : Tensor of shape (H,)
        xi of each unit; not used for exact units.

    Attributes
    ----------
    log_mass : Tensor, scalar
        ln M in whitened coordinates; infinite if the parabolas are too steep.
    """

    def __init__(self, slopes: Tensor, intercepts: Tensor, exact: Tensor, contact: Tensor) -> None:
        self.slopes, self.intercepts, self.exact, self.contact = slopes, intercepts, exact, contact
        v, a, xi = slopes[:, ~exact], intercepts[~exact], contact[~exact]
        curvature = torch.tanh(xi / 2) / (4 * xi)
        identity = torch.eye(len(slopes), dtype=slopes.dtype, device=slopes.device)
        self.factor, failed = torch.linalg.cholesky_ex(identity - 2 * (v * curvature) @ v.mT)
        if failed:
            self.log_mass = slopes.new_tensor(math.inf)
            return
        self.pull = v @ (2 * curvature * a + 0.5)
        # Slopes of the exact units, solved by the factor: their inner products are those with A^-1.
        solved = torch.linalg.solve_triangular(
            self.factor, torch.cat([slopes[:, exact], self.pull[:, None]], 1), upper=False
        )
        self.exact_slopes, self.centre = solved[:, :-1], solved[:, -1]
        bias = intercepts[exact] + self.exact_slopes.mT @ self.centre
        constant = curvature * (a.square() - xi.square()) + 0.5 * (a - xi) + softplus(xi)
        self.log_mass = (
            0.5 * len(slopes) * LOG_2PI
            - self.factor.diagonal().log().sum()
            + 0.5 * self.centre.square().sum()
            + constant.sum()
        )
        self.machine: IsingModel | None = None
        if exact.any():
            self.machine = IsingModel(bias, self.exact_slopes.mT @ self.exact_slopes)
            self.log_mass = self.log_mass + self.machine.log_partition

    def touching_at(self, contact: Tensor) -> Envelope:
        """Return the envelope with other points of contact."""
        return Envelope(self.slopes, self.intercepts, self.exact, contact)

    def tightened(self, n_passes: int) -> Envelope:
        """Reduce the mass by steps towards the root mean squares of the units' inputs.

        The derivative of ln M with respect to ln xi has the sign of xi minus this root mean square,
        and ln M is convex in lambda: there is one minimum, where both are equal.
        """
        best, step = self, 1.0
        for _ in range(n_passes):
            target = best._root_mean_squares()
            trial = best.touching_at(best.contact * (target / best.contact) ** step)
            if trial.log_mass < best.log_mass:
                best, step = trial, min(1.0, 2 * step)
            else:
                step /= 2
        return best

    def _root_mean_squares(self) -> Tensor:
        """Root mean squares of the units' inputs under the envelope: (H,)."""
        mean, spread = self.centre, torch.zeros_like(self.exact_slopes.mT)
        if self.machine is not None:
            first, second = self.machine.moments()
            mean = mean + self.exact_slopes @ first
            covariance = second - torch.outer(first, first)
            values, vectors = torch.linalg.eigh(covariance)
            spread = (self.exact_slopes @ vectors * values.clamp(min=0).sqrt()).mT
        solved = torch.linalg.solve_triangular(self.factor, self.slopes, upper=False)
        variance = solved.square().sum(0) + (spread @ solved).square().sum(0)
        return ((self.intercepts + solved.mT @ mean).square() + variance).sqrt()

    def log_ratios(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Ln of density / envelope of each unit, at draws from the envelope: (n_draws, H)."""
        noise = standard_normal((n_draws, len(self.slopes)), generator, self.slopes)
        position = noise + self.centre
        if self.machine is not None:
            h = self.machine.sample(n_draws, generator).to(position)
            position = position + h @ self.exact_slopes.mT
        u = torch.linalg.solve_triangular(self.factor.mT, position.mT, upper=True).mT
        x, xi = self.intercepts + u @ self.slopes, self.contact
        curvature = torch.tanh(xi / 2) / (4 * xi)
        parabola = curvature * (x.square() - xi.square()) + 0.5 * (x - xi) + softplus(xi)
        # At a point of contact, rounding can exceed the parabola by one ulp.
        return (softplus(x) - parabola).clamp(max=0).masked_fill(self.exact, 0.0)


def whitened(energy: GaussianBernoulliEnergy) -> _Whitened:
    """Whiten an energy: u = (z - mu) / sigma."""
    bias, _, _ = energy.hidden_machine()
    scale = energy.variance.sqrt()
    return _Whitened(energy.weight / scale[:, None], bias, scale.log().sum())


def make_envelope(
    slopes: Tensor, intercepts: Tensor, n_exact: int, generator: torch.Generator
) -> Envelope:
    """Return a tight envelope, where the ``n_exact`` units with the loosest parabolas are exact.

    Parameters
    ----------
    slopes : Tensor of shape (D, H)
    intercepts : Tensor of shape (H,)
    n_exact : int
    generator : torch.Generator
    """
    exact = torch.zeros_like(intercepts, dtype=torch.bool)
    # Start with parabolas that are flat enough for a finite mass.
    start = torch.linalg.matrix_norm(slopes, 2).square().clamp(min=1.0).expand_as(intercepts)
    envelope = Envelope(slopes, intercepts, exact, start).tightened(N_PASSES)
    if n_exact:
        gaps = -envelope.log_ratios(N_PILOT_DRAWS, generator).mean(0)
        exact = exact.index_fill(0, gaps.topk(min(n_exact, len(gaps))).indices, True)
        envelope = Envelope(slopes, intercepts, exact, envelope.contact).tightened(N_PASSES // 5)
    return envelope


def mean_bounds(total: Tensor, squares: Tensor, n: int, miss: float) -> tuple[float, float]:
    """Empirical Bernstein bounds on the mean of numbers in [0, 1] (Maurer & Pontil 2009, thm. 4).

    Parameters
    ----------
    total, squares : Tensor, scalars
        Sums of the numbers and of their squares.
    n : int
    miss : float
        Probability that each of the two bounds is wrong.
    """
    mean = total.item() / n
    variance = max(0.0, (squares.item() - n * mean**2) / (n - 1))
    log_term = math.log(2 / miss)
    error = math.sqrt(2 * variance * log_term / n) + 7 * log_term / (3 * (n - 1))
    return mean - error, min(1.0, mean + error)


@torch.no_grad()
def certified_interval(
    energy: GaussianBernoulliEnergy,
    generator: torch.Generator,
    *,
    n_exact: int,
    width: float,
) -> LogPartitionInterval:
    """Interval that contains ln Z with a probability of at least 0.999, for any parameters.

    Parameters
    ----------
    energy : GaussianBernoulliEnergy
        In float64.
    generator : torch.Generator
    n_exact : int
        Hidden units that are summed out exactly, at a cost of 2^n_exact.
    width : float
        Width in nats at which the interval is narrow enough.

    Returns
    -------
    LogPartitionInterval
        In nats; ``low`` can be minus infinity.
    """
    slopes, intercepts, log_volume = whitened(energy)
    envelope = make_envelope(slopes, intercepts, n_exact, generator)
    log_mass = (envelope.log_mass + log_volume).item()
    # Half of the probability for each side, divided among the stages.
    miss = MISS_PROBABILITY / (2 * len(STAGES))
    total, squares, n, low, high = slopes.new_zeros(()), slopes.new_zeros(()), 0, -math.inf, 0.0
    for stage in STAGES:
        while n < stage:
            weights = envelope.log_ratios(DRAWS_AT_ONCE, generator).sum(1).exp()
            total, squares = total + weights.sum(), squares + weights.square().sum()
            n += DRAWS_AT_ONCE
        below, above = mean_bounds(total, squares, n, miss)
        low = max(low, math.log(below)) if below > 0 else low
        high = min(high, math.log(above))
        # With n draws, the error decreases at most by a factor of n; if this is not enough, stop.
        if high - low <= width or high - low > width * STAGES[-1] / n:
            break
    return LogPartitionInterval(log_mass + low, log_mass + high)
