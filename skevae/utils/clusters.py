"""Initial centres for the components of a mixture."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

# More rows than this do not improve k-means++.
MAX_ROWS = 10_000


# Identical centres would never separate, so all are moved by this part of a standard deviation.
JITTER = 0.05


def spread_centres(
    rows: Tensor, n_centres: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose rows that are far from each other (k-means++; Arthur & Vassilvitskii 2007).

    Parameters
    ----------
    rows : Tensor of shape (n, D)
    n_centres : int
        May exceed n: rows are then used more than once.
    generator : torch.Generator

    Returns
    -------
    centres : Tensor of shape (n_centres, D)
    variance : Tensor of shape (D,)
        Variance of the rows around the nearest centre.
    """
    order = torch.randperm(rows.shape[0], generator=generator, device=rows.device)
    rows = rows[order[:MAX_ROWS]]
    seed = int(torch.randint(2**31 - 1, (), generator=generator, device=rows.device))
    points = rows.cpu().double().numpy()
    centres, _ = kmeans_plusplus(points, min(n_centres, len(points)), random_state=seed)
    centres = torch.from_numpy(np.resize(centres, (n_centres, points.shape[1]))).to(rows)
    noise = torch.randn(centres.shape, generator=generator, dtype=rows.dtype, device=rows.device)
    centres = centres + JITTER * rows.std(0, correction=0) * noise
    nearest = torch.cdist(rows, centres).argmin(1)
    return centres, (rows - centres[nearest]).square().mean(0)
