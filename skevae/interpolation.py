"""Paths between latents: straight lines, corrected in regions of low density."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.densities.base import Density

# Number of transitions that are averaged: the noise of the mean is 1/8 of the sampler's.
N_REPLICAS = 64


def straight_path(start: Tensor, end: Tensor, n_steps: int) -> Tensor:
    """Equally spaced points from ``start`` to ``end``, both included: (D,) twice -> (n, D)."""
    t = torch.linspace(0, 1, n_steps, dtype=start.dtype, device=start.device)[:, None]
    return (1 - t) * start + t * end  # exact at both ends


@torch.no_grad()
def raise_low_points(
    density: Density, path: Tensor, n_steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Move points of a path that are less probable than both its ends.

    A step moves a point to the mean of many transitions of the sampler from it. In expectation,
    this is mean shift for block Gibbs, :math:`z \leftarrow \sum_h p(h \mid z) E[z \mid h]`, which
    never lowers the density of a mixture of Gaussians of equal shape, and gradient ascent for
    Langevin steps. A single transition would add the noise of a sample, which lowers the density in
    more than a few dimensions. A step is only taken if it raises the density. A point is no longer
    moved once its density is that of the less probable end, so the path stays close to the line.

    Parameters
    ----------
    density : Density
    path : Tensor of shape (n, D)
    n_steps : int
        Maximum number of steps for each point.
    generator : torch.Generator

    Returns
    -------
    path : Tensor of shape (n, D)
        Its ends are unchanged.
    moved : Tensor of bool of shape (n,)
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
