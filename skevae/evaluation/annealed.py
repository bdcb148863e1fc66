r"""Log-likelihood by annealed importance sampling, for posteriors that are far from Gaussian.

Chains start at draws from the Gaussian :math:`g` that is fitted to a row's posterior, and move
along

.. math::
    f_\beta(z) = g(z)^{1 - \beta} \, [p(x \mid z) e^{-E(z)}]^{\beta}

from :math:`\beta = 0` to 1. In each step, a chain is weighted by the ratio of f at the new and the
old :math:`\beta`, and then makes a Langevin move with a Metropolis test, which leaves f unchanged.
As for importance sampling, the mean of the products of these weights is unbiased for p(x) Z (Neal
2001, "Annealed importance sampling"), so its logarithm is a lower bound in expectation. The bound
is tighter because chains move towards the posterior, but each step and chain costs a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skevae.energies import LOG_2PI
from skevae.evaluation.importance import EncodedRows, Noise
from skevae.evaluation.refinement import RowGaussians, log_joint_and_slope
from skevae.utils.memory import row_slices
from skevae.utils.random import make_generator, standard_normal
from skevae.vae import VAE

N_STEPS = 100

# Cycle of step lengths, in standard deviations of the fitted Gaussian times D^(-1/6); with this
# factor, the acceptance of Langevin moves does not depend on D (Roberts & Rosenthal 1998). Short
# steps are for rows whose posterior is partly narrower than the Gaussian.
STEP_SIZES = (1.2, 0.6, 0.3)


class Moves(NamedTuple):
    """Random numbers of the moves of chains, the same for all rows."""

    normal: Tensor  # (n_steps, m, D)
    log_uniform: Tensor  # (n_steps, m)

    @classmethod
    def draw(cls, n_chains: int, n_latent: int, seed: int, like: Tensor) -> Moves:
        """Draw on the CPU, so that a score does not depend on the device."""
        generator = make_generator(seed)
        normal = standard_normal(
            (N_STEPS, n_chains, n_latent), generator, torch.empty(0, dtype=torch.float64)
        )
        uniform = torch.rand((N_STEPS, n_chains), generator=generator, dtype=torch.float64)
        return cls(normal.to(like), uniform.log().to(like))

    def at(self, chains: slice) -> Moves:
        """Select chains."""
        return Moves(self.normal[:, chains], self.log_uniform[:, chains])


class State(NamedTuple):
    """Positions of chains, in standard deviations of the fitted Gaussians."""

    u: Tensor  # (m, n, D)
    log_target: Tensor  # (m, n)
    slope: Tensor  # of log_target, (m, n, D)

    def log_base(self) -> Tensor:
        """ln N(u; 0, I): (m, n)."""
        return -0.5 * (self.u.square() + LOG_2PI).sum(-1)


@torch.no_grad()
def annealed_weights(
    model: VAE,
    guide: Callable[[Tensor], Tensor],
    rows: EncodedRows,
    noise: Noise,
    draws_at_once: int,
) -> tuple[Tensor, Tensor]:
    """Anneal chains of rows, some chains at a time.

    Parameters
    ----------
    model : VAE
    guide : callable (..., D) -> (...)
        Differentiable energy that the chains follow. If it differs from the energy of the model,
        the weights are corrected at the end.
    rows : EncodedRows
        n of them.
    noise : Noise
        One chain for each draw of the fitted Gaussians, or of the encoder's posteriors.
    draws_at_once : int

    Returns
    -------
    log_weights, zero : Tensor of shape (m, n)
        The exponential of their sum has the mean p(x) Z, for each row.
    """
    standard = torch.cat([noise.refined, noise.own.flatten(0, 1)])
    n_chains, n_latent = standard.shape
    moves = Moves.draw(n_chains, n_latent, noise.seed, standard)
    gaussians = rows.gaussians
    if gaussians is None:
        gaussians = standard_gaussians(rows.x, n_latent)
    target = Target(model, guide, rows, gaussians)
    parts = row_slices(len(standard), draws_at_once)
    weights = torch.cat([anneal(target, standard[part], moves.at(part)) for part in parts])
    return weights, torch.zeros_like(weights)


def standard_gaussians(x: Tensor, n_latent: int) -> RowGaussians:
    """The encoder's posteriors, if no Gaussians were fitted."""
    identity = torch.eye(n_latent, dtype=x.dtype, device=x.device)
    return RowGaussians(x.new_zeros((len(x), n_latent)), identity.expand(len(x), -1, -1))


class Target:
    """p(x | z) exp(-E(z)) of each row, as a density of u.

    Parameters
    ----------
    model, guide, rows : as in `annealed_weights`
    gaussians : RowGaussians
        They map u to the noise of the posterior, which is mapped to z.
    """

    def __init__(
        self,
        model: VAE,
        guide: Callable[[Tensor], Tensor],
        rows: EncodedRows,
        gaussians: RowGaussians,
    ) -> None:
        self.model, self.guide, self.rows, self.gaussians = model, guide, rows, gaussians
        self.log_scale = gaussians.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def __call__(self, u: Tensor) -> State:
        """Log-density by the guide, and its gradient."""
        noise = self.gaussians.locate_each(u)
        rows = self.rows
        value, slope = log_joint_and_slope(self.model, self.guide, rows.x, rows.outputs, noise)
        slope = (self.gaussians.factor.mT @ slope[..., None]).squeeze(-1)
        # Where the model returns non-finite values, density and gradient are zero.
        lost = ~(value.isfinite() & slope.isfinite().all(-1))
        return State(
            u,
            (value + self.log_scale).masked_fill(lost, -math.inf),
            slope.masked_fill(lost[..., None], 0.0),
        )

    def correction(self, u: Tensor) -> Tensor:
        """Log-density by the energy of the model minus that by the guide: (m, n)."""
        z, _ = self.model.posterior.draw(self.rows.outputs, self.gaussians.locate_each(u))
        return self.guide(z) - self.model.density.energy(z)


def anneal(target: Target, standard: Tensor, moves: Moves) -> Tensor:
    """Log-weights of chains that start at ``standard``, (m, D): (m, n)."""
    n_steps, d = len(moves.normal), standard.shape[-1]
    state = target(standard[:, None].expand(-1, len(target.rows.x), -1))
    log_weights = torch.zeros_like(state.log_target)
    for step, (normal, log_uniform) in enumerate(zip(*moves, strict=True)):
        increment = (state.log_target - state.log_base()) / n_steps
        log_weights += increment.masked_fill(state.log_target.isneginf(), -math.inf)
        if step + 1 < n_steps:
            length = STEP_SIZES[step % len(STEP_SIZES)] * d ** (-1 / 6)
            beta = (step + 1) / n_steps
            state = move(target, state, beta, length, normal[:, None], log_uniform[:, None])
    corrected = log_weights + target.correction(state.u)
    return corrected.masked_fill(log_weights.isneginf(), -math.inf)


def move(
    target: Target, state: State, beta: float, length: float, normal: Tensor, log_uniform: Tensor
) -> State:
    """One Metropolis-adjusted Langevin move at ``beta``."""

    def pull(at: State) -> Tensor:
        return 0.5 * length**2 * (beta * at.slope - (1 - beta) * at.u)

    def log_density(at: State) -> Tensor:
        return beta * at.log_target + (1 - beta) * at.log_base()

    proposal = target(state.u + pull(state) + length * normal)
    back = (state.u - proposal.u - pull(proposal)) / length
    log_ratio = log_density(proposal) - log_density(state)
    log_ratio = log_ratio + 0.5 * (normal.square() - back.square()).sum(-1)
    # A chain that started at zero density accepts any point with a positive density.
    accepted = (log_uniform < log_ratio) | state.log_target.isneginf()
    return State(
        *(
            torch.where(accepted if new.ndim == 2 else accepted[..., None], new, old)
            for new, old in zip(proposal, state, strict=True)
        )
    )
