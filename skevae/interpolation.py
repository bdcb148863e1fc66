"""Paths between latents: straight lines, whose improbable points are moved uphill."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.densities.base import Density

# Transitions from one point whose mean is taken: it errs by an eighth of the sampler's noise.
N_REPLICAS = 64


def straight_path(start: Tensor, end: Tensor, n_steps: int) -> Tensor:
    """Points at equal distances from ``start`` to ``end``, both included: (D,) twice -> (n, D)."""
    t = torch.linspace(0, 1, n_steps, dtype=start.dtype, device=start.device)[:, None]
    return (1 - t) * start + t * end  # exact at both ends


@torch.no_grad()
def raise_low_points(
    density: Density, path: Tensor, n_steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Move points of a path that are less probable than both its ends.

    A step goes to the mean of many transitions of the sampler from the point. For block Gibbs that
    is, without its noise, the step of mean shift, :math:`z \leftarrow \sum_h p(h \mid z) E[z \mid
    h]`, which never lowers the density of a mixture of Gaussians of equal shape; for Langevin it
    is one of gradient ascent. A single transition ends where the density is *lower* in more than a
    few dimensions: it has the noise of a sample, which the means of posteriors that lie at the ends
    have not. A step is taken only if it raises the density, and no further ones once the point is
    as probable as the less probable end, so that the path stays close to the line.

    Parameters
    ----------
    density : Density
    path : Tensor of shape (n, D)
    n_steps : int
        At most, for each point.
    generator : torch.Generator

    Returns
    -------
    path : Tensor of shape (n, D)
        The ends are those of the old one.
    moved : Tensor of shape (n,)
        Boolean.
    """
    energy = density.energy(path)
    highest = torch.maximum(energy[0], energy[-1])
    moved = torch.zeros_like(energy, dtype=torch.bool)
    path = path.clone()
    for _ in range(n_steps):
        low = (energy > highest).nonzero().squeeze(1)
        if len(low) == 0:
            break
        replicas = path[low].repeat_interleave(N_REPLICAS, dim=0)
        mean = density.transition(replicas, generator).reshape(len(low), N_REPLICAS, -1).mean(1)
        reached = density.energy(mean)
        better = reached < energy[low]
        chosen = low[better]
        path[chosen], energy[chosen], moved[chosen] = mean[better], reached[better], True
    return path, moved
