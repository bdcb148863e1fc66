"""Integers of few values with gaps: a probability for each value, and a little for all others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skevae.likelihoods.base import Likelihood
from skevae.likelihoods.categorical import Categorical

# A column has few values if it has at most so many, each with this many rows on average.
MAX_VALUES = 50
ROWS_PER_VALUE = 10

# It has gaps if at most this share of the integers between its 1% and 99% quantiles occurs.
MAX_OCCURRING = 0.75
TAIL = 0.01

# Half a unit, relative to the values, below which float32 cannot tell integers apart.
RESOLUTION = 1e-6


class SeenValues(NamedTuple):
    """Values of a column of integers, in order, and how many entries have each."""

    values: np.ndarray
    counts: np.ndarray


class SeenIntegers(Likelihood):
    r"""P(x_j = k | z) = (1 - \epsilon_j) w_jk(z) [k was seen] + \epsilon_j L_j(k).

    The weights w_j are a softmax over the values that were seen. A smooth mixture would have to
    cover the integers between them, such as those between the upper ends of brackets. Values that
    were not seen have the mass of their unit interval under a Laplace distribution L_j that has the
    median and the mean absolute deviation of the values. Its weight is that of one row more than
    the n_j that were seen, :math:`\epsilon_j = 1 / (n_j + 1)`. All integers together have
    probability 1.

    Parameters
    ----------
    half_widths : Tensor of shape (n_features,)
        Half a unit, in the coordinates in which x is standardised.
    values : sequence of Tensor
        Those seen of each column, in the same coordinates.
    n_present : sequence of int
        Number of entries of each column that are not missing.
    """

    half_widths: Tensor
    centres: Tensor
    scales: Tensor
    log_unseen: Tensor
    log_seen: Tensor

    def __init__(
        self, half_widths: Tensor, values: Sequence[Tensor], n_present: Sequence[int]
    ) -> None:
        seen = Categorical([len(v) for v in values])
        super().__init__(len(values), seen.n_outputs)
        self.seen = seen
        centres = torch.stack([v.double().median() for v in values])
        widths = half_widths.double()
        deviations = [(v.double() - c).abs().mean() for v, c in zip(values, centres, strict=True)]
        share = 1 / (torch.tensor(n_present, dtype=torch.float64) + 1)
        self.register_buffer("half_widths", widths)
        self.register_buffer("centres", centres)
        self.register_buffer("scales", torch.stack(deviations).clamp(min=widths))
        self.register_buffer("log_unseen", share.log())
        self.register_buffer("log_seen", (-share).log1p())
        for group, columns in enumerate(seen.columns):
            together = torch.stack([values[j] for j in columns])
            self.register_buffer(f"values_{group}", together.double())

    def _groups(self, outputs: Tensor) -> list[tuple[list[int], Tensor, Tensor]]:
        """For columns with equally many values: these columns, their values and ln w."""
        return [
            (columns, getattr(self, f"values_{group}"), logits.log_softmax(-1))
            for group, (columns, logits) in enumerate(self.seen.grouped_logits(outputs))
        ]

    def log_mass_unseen(self, x: Tensor) -> Tensor:
        """Ln of the Laplace distribution's mass of the unit interval around x, elementwise."""
        width, scale = self.half_widths, self.scales
        distance = (x.double() - self.centres).abs()
        # An interval on one side of the centre, or one that contains it.
        beside = (width - distance) / scale + (-torch.expm1(-2 * width / scale)).log() - math.log(2)
        low, high = (distance - width).clamp(max=0.0), distance + width
        around = (-0.5 * (torch.expm1(low / scale) + torch.expm1(-high / scale))).log()
        return torch.where(distance >= width, beside, around).to(x)

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        parts = []
        for columns, values, log_share in self._groups(outputs):
            gap, nearest = (x[..., columns, None] - values.to(x)).abs().min(-1)
            shape = torch.broadcast_shapes(log_share.shape[:-1], nearest.shape)
            chosen = log_share.expand(*shape, -1).gather(-1, nearest.expand(shape)[..., None])
            is_seen = gap < self.half_widths[columns]
            parts.append(chosen[..., 0].masked_fill(~is_seen, -torch.inf))
        of_seen = self.seen.in_order(parts) + self.log_seen.to(outputs)
        return torch.logaddexp(of_seen, (self.log_unseen + self.log_mass_unseen(x)).to(outputs))

    def mean(self, outputs: Tensor) -> Tensor:
        parts = [
            (log_share.exp() * values.to(log_share)).sum(-1)
            for _, values, log_share in self._groups(outputs)
        ]
        of_seen = self.seen.in_order(parts)
        return torch.lerp(of_seen, self.centres.to(of_seen), self.log_unseen.exp().to(of_seen))

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a value that was seen, or from the Laplace distribution, to be rounded."""
        codes = self.seen.sample(outputs, generator).long()
        parts = []
        for group, columns in enumerate(self.seen.columns):
            values = getattr(self, f"values_{group}").to(outputs)
            code = codes[..., columns]
            expanded = values.expand(*code.shape, -1)
            parts.append(expanded.gather(-1, code[..., None])[..., 0])
        of_seen = self.seen.in_order(parts)
        uniform = torch.rand(
            (2, *of_seen.shape), generator=generator, dtype=torch.float64, device=of_seen.device
        )
        side = 2 * uniform[1] - 1
        unseen = self.centres - self.scales * side.sign() * (-side.abs()).log1p()
        return torch.where(uniform[0] < self.log_unseen.exp(), unseen.to(of_seen), of_seen)


def values_seen(column: np.ndarray) -> SeenValues | None:
    """Look at a column of integers, or at a part of its rows.

    Parameters
    ----------
    column : ndarray of shape (n,)
        nan marks missing entries.

    Returns
    -------
    SeenValues or None
        None if there are more than `MAX_VALUES` values.
    """
    values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
    return SeenValues(values, counts) if len(values) <= MAX_VALUES else None


def few_values(parts: Sequence[SeenValues | None]) -> SeenValues | None:
    """Values of a column, if they are few, occur often and leave gaps; else None.

    Parameters
    ----------
    parts : sequence of SeenValues or None
        What `values_seen` finds in the parts of the column.
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    values, of_part = np.unique(
        np.concatenate([part.values for part in known]), return_inverse=True
    )
    counts = np.bincount(of_part, np.concatenate([part.counts for part in known])).astype(int)
    n_present = counts.sum()
    if not len(values) <= min(MAX_VALUES, n_present / ROWS_PER_VALUE):
        return None
    first, last = np.searchsorted(counts.cumsum(), [TAIL * n_present, (1 - TAIL) * n_present])
    n_integers = values[last] - values[first] + 1
    has_gaps = last - first + 1 <= MAX_OCCURRING * n_integers
    return SeenValues(values, counts) if has_gaps else None


def are_told_apart(values: np.ndarray, half_width: float) -> bool:
    """Whether float32 tells these standardised values from their neighbours."""
    return half_width > RESOLUTION * (1 + np.abs(values).max())
