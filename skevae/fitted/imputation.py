"""Imputed values, from draws of the latents given the observed entries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skevae.estimators.bounds import Bounds
from skevae.estimators.columns import Columns
from skevae.estimators.standardizer import Standardizer
from skevae.likelihoods.base import Likelihood

# Number of conditional draws over which an imputed value is averaged.
N_IMPUTATION_DRAWS = 100

# Draws of x for each draw of z in the mean of a bounded column.
N_DRAWS_OF_X = 10


class OwnScale(NamedTuple):
    """The scale of X, on which bounded columns are not mapped and integers are rounded."""

    standardizer: Standardizer
    columns: Columns
    bounds: Bounds

    @property
    def bounded(self) -> np.ndarray:
        """Indices of the bounded columns."""
        return np.flatnonzero(np.isfinite(self.bounds.low) | np.isfinite(self.bounds.high))

    def rows(self, x: Tensor) -> np.ndarray:
        """Rows on the scale of X: (n, d) -> (n, d)."""
        return self.columns.rounded(self.bounds.backward(self.standardizer.rows(x)))

    def coordinates(self, rows: np.ndarray, like: Tensor) -> Tensor:
        """Undo `rows`, except for the rounding."""
        return self.standardizer.tensor(self.bounds.forward(rows), like.device, like.dtype)

    def log_derivatives(self, x: Tensor) -> Tensor:
        """Log-derivative of the map of bounded columns at each entry: (n, d) -> (n, d)."""
        values = self.bounds.log_derivatives(self.standardizer.rows(x))
        return torch.from_numpy(values).to(x)


class DecodedDraws(NamedTuple):
    """Decoded draws of z given the observed entries of rows."""

    likelihood: Likelihood
    outputs: Tensor  # of the decoder, (n_draws, n, n_outputs)
    generator: torch.Generator
    scale: OwnScale

    def sample(self) -> Tensor:
        """One draw of x for each of z: (n_draws, n, d)."""
        return self.likelihood.sample(self.outputs, self.generator)


def mean(draws: DecodedDraws) -> Tensor:
    """Mean on the scale of X; for categories, the most probable one."""
    values = draws.likelihood.pooled_mean(draws.outputs)
    bounded = draws.scale.bounded
    if not len(bounded):
        return values
    # The mean of a mapped column is not mapped back to the mean.
    total = np.zeros(values.shape)
    for _ in range(N_DRAWS_OF_X):
        total += sum(draws.scale.rows(x) for x in draws.sample())
    rows = draws.scale.rows(values)
    rows[:, bounded] = total[:, bounded] / (N_DRAWS_OF_X * len(draws.outputs))
    values[:, bounded] = draws.scale.coordinates(rows, values)[:, bounded]
    return values


def median(draws: DecodedDraws) -> Tensor:
    """Median of one draw of x for each of z; for categories, the most probable one."""
    values = draws.sample().median(0).values
    categories = torch.from_numpy(draws.scale.columns.n_categories > 0).to(values.device)
    if categories.any():
        values = torch.where(categories, draws.likelihood.pooled_mean(draws.outputs), values)
    return values


def mode(draws: DecodedDraws) -> Tensor:
    """The draw of x (one for each z) at which the density averaged over all z is highest."""
    candidates, scale = draws.sample(), draws.scale
    if scale.columns.integer.any():
        candidates = torch.stack([scale.coordinates(scale.rows(x), x) for x in candidates])
    density = torch.stack(
        [draws.likelihood.feature_log_density(x, draws.outputs).logsumexp(0) for x in candidates]
    )
    if len(scale.bounded):
        density += torch.stack([scale.log_derivatives(x) for x in candidates])
    return candidates.gather(0, density.argmax(0, keepdim=True))[0]


def one_draw(draws: DecodedDraws) -> Tensor:
    """One draw of x for the first z."""
    return draws.likelihood.sample(draws.outputs[0], draws.generator)


def evenly(n: int, m: int, generator: torch.Generator) -> Tensor:
    """Evenly spaced positions in the cumulative weights, so that z is not drawn at random."""
    return ((torch.arange(m, dtype=torch.float64) + 0.5) / m).expand(n, m)


def at_random(n: int, m: int, generator: torch.Generator) -> Tensor:
    """Positions in the cumulative weights that make each z a draw: (n, m)."""
    return torch.rand((n, m), generator=generator, dtype=torch.float64)


# For each method of imputation: how to compute the value, the number of draws of z, and their
# positions in the cumulative weights.
IMPUTATIONS = {
    "mean": (mean, N_IMPUTATION_DRAWS, evenly),
    "median": (median, N_IMPUTATION_DRAWS, evenly),
    "mode": (mode, N_IMPUTATION_DRAWS // 2, evenly),
    "draw": (one_draw, 1, at_random),
}
