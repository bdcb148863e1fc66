r"""A Gaussian fitted to the posterior of each row, as a proposal for its score.

The encoder's posterior is amortised: one network is used for all rows, and most of its posteriors
are too narrow and lack correlations. Before a row is scored, a Gaussian with a full covariance is
therefore fitted to p(z | x) by batch and match (Cai et al. 2024), starting from the encoder's
posterior. Each step draws from the current Gaussian, evaluates the gradients of ln p(x, z) at the
draws, and moves to the Gaussian whose gradients (its score function) match them best, in closed
form. On a Gaussian target it converges in a few steps, while gradient ascent on the bound takes
hundreds. The fit of a row ends when a step hardly changes its Gaussian.

The fit is done in the space of the standard normal noise :math:`\epsilon` that a posterior
reparametrises, where every posterior is initially N(0, I). It therefore works for all posteriors,
including flows.

References
----------
.. [1] Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei & Saul (2024). "Batch and match:
       black-box variational inference with a score-based divergence".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skevae.energies import LOG_2PI
from skevae.utils.random import make_generator, standard_normal
from skevae.vae import VAE

MIN_STEPS, MAX_STEPS = 3, 16

# The fit of a row ends when the Kullback-Leibler divergence of a step is less, in nats: this value
# up to `FEW_LATENTS`, and in proportion to the number of latents above, like the noise of a step.
# On nine tables, rows took 3.2 to 8 steps on average.
MIN_DIVERGENCE = 0.1
FEW_LATENTS = 16

# Minimum number of draws of a step; there are at least two per latent, in opposite directions.
MIN_DRAWS = 32

# With more latents, the covariances of rows cost more than their draws, and nothing is fitted.
MAX_LATENTS = 128

# Proposals are wider than the fitted Gaussians, because tails that are too light are worse for the
# weights. With a variance factor of 1 + c / sqrt(D), the loss of effective draws does not depend on
# D.
WIDENING = 1.2


class RowGaussians(NamedTuple):
    """A Gaussian for the noise of each row, N(mean, factor factor')."""

    mean: Tensor  # (n, D)
    factor: Tensor  # (n, D, D), lower triangular

    def locate(self, standard: Tensor) -> Tensor:
        """Transform standard normal draws, shared by all rows: (m, D) -> (m, n, D)."""
        n, d = self.mean.shape
        spread = standard @ self.factor.permute(2, 0, 1).reshape(d, n * d)
        return self.mean + spread.view(-1, n, d)

    def locate_each(self, standard: Tensor) -> Tensor:
        """Transform standard normal draws, separate for each row: (m, n, D) -> (m, n, D)."""
        return self.mean + (self.factor @ standard[..., None]).squeeze(-1)

    def log_density(self, noise: Tensor) -> Tensor:
        """Log-density, in nats: (m, n, D) -> (m, n)."""
        deviation = (noise - self.mean).permute(1, 2, 0)
        standard = torch.linalg.solve_triangular(self.factor, deviation, upper=False)
        log_scale = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (standard.square() + LOG_2PI).sum(1).mT - log_scale

    def at(self, rows: Tensor | slice) -> RowGaussians:
        """Select rows."""
        return RowGaussians(self.mean[rows], self.factor[rows])


def make_directions(n_latent: int, seed: int) -> Tensor:
    """Draws from N(0, I) for all steps, in opposite pairs and orthogonal directions.

    Orthogonal draws have covariances closer to I than independent ones (Yu et al. 2016,
    "Orthogonal random features").

    Returns
    -------
    Tensor of shape (n_steps, n_draws, D)
        float64, on the CPU. No steps for more than `MAX_LATENTS` latents.
    """
    n_steps = MAX_STEPS if n_latent <= MAX_LATENTS else 0
    half = max(n_latent, MIN_DRAWS // 2)
    shape = (2, n_steps, math.ceil(half / n_latent), n_latent, n_latent)
    like = torch.empty(0, dtype=torch.float64)
    normal, other = standard_normal(shape, make_generator(seed), like)
    rotation, triangle = torch.linalg.qr(normal)
    # The rotations are only uniform with these signs (Mezzadri 2007).
    rotation = rotation * triangle.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    directions = (rotation * other.norm(dim=-1, keepdim=True)).flatten(1, 2)[:, :half]
    return torch.cat([directions, -directions], dim=1)


def refine(
    model: VAE,
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    outputs: Tensor,
    directions: Tensor,
    draws_at_once: int,
) -> RowGaussians:
    """Fit a Gaussian for the noise to the posterior of each row.

    Parameters
    ----------
    model : VAE
    energy : callable (..., D) -> (...)
        Differentiable energy of the latents.
    x : Tensor of shape (n, n_features)
    outputs : Tensor of shape (n, k D)
        Outputs of the encoder.
    directions : Tensor of shape (n_steps, n_draws, D)
        See `make_directions`; shared by all rows.
    draws_at_once : int

    Returns
    -------
    RowGaussians
        Widened by `WIDENING`; in the dtype of x, but fitted in float64.
    """
    n, d = len(x), directions.shape[-1]
    identity = torch.eye(d, dtype=torch.float64, device=x.device)
    found = RowGaussians(identity.new_zeros((n, d)), identity.repeat(n, 1, 1))
    smallest = MIN_DIVERGENCE * max(1.0, d / FEW_LATENTS)
    rows = torch.arange(n, device=x.device)
    for step, standard in enumerate(directions.to(identity)):
        if not len(rows):
            break
        chosen = padded(rows, n)
        present = found.at(chosen)
        noise = present.locate(standard)
        slopes = torch.cat(
            [
                log_joint_and_slope(model, energy, x[chosen], outputs[chosen], part)[1]
                for part in noise.to(x.dtype).split(draws_at_once)
            ]
        ).double()
        # The published schedule, except for a factor D: with many evenly distributed draws, the
        # first steps can be large, but later ones must be small.
        moved = matched(present, noise, slopes, rate=len(standard) / (step + 1))
        present, moved = present.at(slice(len(rows))), moved.at(slice(len(rows)))
        found.mean[rows], found.factor[rows] = moved
        if step + 1 >= MIN_STEPS:
            # Where a step failed, the next one has other draws.
            failed = (moved.mean == present.mean).all(-1)
            rows = rows[failed | (divergence(moved, present) >= smallest)]
    wider = math.sqrt(1 + WIDENING / math.sqrt(d))
    return RowGaussians(found.mean.to(x.dtype), (wider * found.factor).to(x.dtype))


def padded(rows: Tensor, n: int) -> Tensor:
    """Repeat the first row until the number of rows is n, n // 2, n // 4, ...

    oneDNN caches memory for every number of rows that its products have.
    """
    size = n >> int(math.log2(n / len(rows)))
    return torch.cat([rows, rows[:1].expand(size - len(rows))])


def divergence(ones: RowGaussians, others: RowGaussians) -> Tensor:
    """Kullback-Leibler divergence of Gaussians from others, KL(ones || others): (n,)."""
    shift = torch.linalg.solve_triangular(
        others.factor, (ones.mean - others.mean)[..., None], upper=False
    )
    factor = torch.linalg.solve_triangular(others.factor, ones.factor, upper=False)
    squares = factor.square().sum((-1, -2)) + shift.square().sum((-1, -2))
    log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (squares - ones.mean.shape[-1]) - log_scale


def log_joint_and_slope(
    model: VAE, energy: Callable[[Tensor], Tensor], x: Tensor, outputs: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """ln p(x, noise) without ln Z, and its gradient: (m, n, D) -> (m, n), (m, n, D)."""
    with torch.enable_grad():
        noise = noise.detach().requires_grad_()
        z, log_posterior = model.posterior.draw(outputs, noise)
        log_joint = model.likelihood.log_density(x, model.decoder(z)) - energy(z)
        # The term of the change of variables: ln N(noise) - ln q(z) = ln |dz / dnoise|.
        log_joint = log_joint - log_posterior - 0.5 * (noise.square() + LOG_2PI).sum(-1)
        (gradient,) = torch.autograd.grad(log_joint.sum(), noise)
    return log_joint.detach(), gradient


def matched(present: RowGaussians, noise: Tensor, slopes: Tensor, rate: float) -> RowGaussians:
    r"""One step of batch and match.

    With means :math:`\bar z, \bar g` and covariances C, :math:`\Gamma` of draws and gradients, and
    the rate :math:`\lambda`, the new covariance S solves S U S + S = V,

    .. math::
        U = \lambda \Gamma + \tfrac{\lambda}{1 + \lambda} \bar g \bar g', \qquad
        V = \Sigma + \lambda C
            + \tfrac{\lambda}{1 + \lambda} (\mu - \bar z)(\mu - \bar z)', \\
        \mu \leftarrow \tfrac{1}{1 + \lambda} \mu
            + \tfrac{\lambda}{1 + \lambda} (S \bar g + \bar z).

    With V = L L' and the eigenvalues e and vectors Q of L' U L it is
    S = L Q diag(2 / (1 + sqrt(1 + 4 e))) Q' L'.

    Parameters
    ----------
    present : RowGaussians
    noise, slopes : Tensor of shape (m, n, D)
        Draws of ``present``, and the gradients of the target's log-density there.
    rate : float

    Returns
    -------
    RowGaussians
        Rows with values that are not finite, or not positive definite, are not changed.
    """
    mean, factor = present
    centre, pull = noise.mean(0), slopes.mean(0)
    share = rate / (1 + rate)
    spread = covariance(noise - centre)
    curvature = rate * covariance(slopes - pull) + share * outer(pull)
    target = factor @ factor.mT + rate * spread + share * outer(mean - centre)
    usable = (curvature.isfinite() & target.isfinite()).all(-1).all(-1)
    hold = ~usable[:, None, None]
    lower, failed = torch.linalg.cholesky_ex(torch.where(hold, factor @ factor.mT, target))
    projected = lower.mT @ torch.where(hold, 0.0, curvature) @ lower
    usable &= (failed == 0) & projected.isfinite().all(-1).all(-1)
    hold = ~usable[:, None, None]
    values, vectors = torch.linalg.eigh(torch.where(hold, 0.0, projected))
    shrunk = 2 / (1 + (1 + 4 * values.clamp(min=0)).sqrt())
    root = lower @ vectors * shrunk.sqrt()[:, None]
    solution = root @ root.mT
    moved = (mean + rate * ((solution @ pull[..., None]).squeeze(-1) + centre)) / (1 + rate)
    new_factor, failed = torch.linalg.cholesky_ex(solution)
    usable &= (failed == 0) & moved.isfinite().all(-1) & new_factor.isfinite().all(-1).all(-1)
    return RowGaussians(
        torch.where(usable[:, None], moved, mean),
        torch.where(usable[:, None, None], new_factor, factor),
    )


def covariance(deviations: Tensor) -> Tensor:
    """Mean of the outer products of draws: (m, n, D) -> (n, D, D)."""
    by_row = deviations.permute(1, 2, 0)
    return by_row @ by_row.mT / len(deviations)


def outer(vector: Tensor) -> Tensor:
    """(n, D) -> (n, D, D)."""
    return vector[:, :, None] * vector[:, None, :]
