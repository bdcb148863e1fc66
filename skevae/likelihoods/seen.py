"""Integers with few values: a probability for each value, and a binned mixture for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skevae.likelihoods.base import Likelihood
from skevae.likelihoods.categorical import Categorical
from skevae.likelihoods.integer import BinnedMixture

# A column has few values if it has at most this many, each with this many rows on average.
MAX_VALUES = 50
ROWS_PER_VALUE = 10

# Half a unit, relative to the values, below which float32 cannot distinguish integers.
RESOLUTION = 1e-6


class SeenIntegers(Likelihood):
    r"""P(x_j = k | z) = w_jk(z) [k was seen] + w_j0(z) B_j(k | z), with a `BinnedMixture` B.

    The weights w_j are a softmax. A smooth mixture alone would also cover the integers between
    those that occur, for example between the upper ends of brackets. Here each value has its own
    probability, and the mixture is only needed for integers that were not seen. The probabilities
    of all integers sum to 1.

    Parameters
    ----------
    half_widths : Tensor of shape (n_features,)
        Half a unit, in the coordinates in which x is standardised.
    values : sequence of Tensor
        The values seen in each column, in the same coordinates.
    n_components : int
        Number of components of the mixtures.
    """

    def __init__(self, half_widths: Tensor, values: Sequence[Tensor], n_components: int) -> None:
        unseen = BinnedMixture(half_widths, n_components)
        seen = Categorical([len(v) + 1 for v in values])
        super().__init__(len(values), unseen.n_outputs + seen.n_outputs)
        self.unseen, self.seen = unseen, seen
        for group, columns in enumerate(seen.columns):
            together = torch.stack([values[j] for j in columns])
            self.register_buffer(f"values_{group}", together.double())

    def _each(self, outputs: Tensor) -> tuple[Tensor, list[tuple[list[int], Tensor, Tensor]]]:
        """Outputs of the mixture, and the values and ln w of columns with equally many values."""
        binned, shares = outputs.split([self.unseen.n_outputs, self.seen.n_outputs], -1)
        groups = [
            (columns, getattr(self, f"values_{group}"), logits.log_softmax(-1))
            for group, (columns, logits) in enumerate(self.seen.grouped_logits(shares))
        ]
        return binned, groups

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        binned, groups = self._each(outputs)
        mass = self.unseen.feature_log_density(x, binned)
        parts = []
        for columns, values, log_share in groups:
            gap, nearest = (x[..., columns, None] - values.to(x)).abs().min(-1)
            shape = torch.broadcast_shapes(log_share.shape[:-1], nearest.shape)
            chosen = log_share.expand(*shape, -1).gather(-1, nearest.expand(shape)[..., None])
            is_seen = gap < self.unseen.half_widths[columns]
            own = chosen[..., 0].masked_fill(~is_seen, -torch.inf)
            parts.append(torch.logaddexp(own, log_share[..., -1] + mass[..., columns]))
        return self.seen.in_order(parts)

    def mean(self, outputs: Tensor) -> Tensor:
        binned, groups = self._each(outputs)
        rest = self.unseen.mean(binned)
        parts = []
        for columns, values, log_share in groups:
            share = log_share.exp()
            of_seen = (share[..., :-1] * values.to(share)).sum(-1)
            parts.append(of_seen + share[..., -1] * rest[..., columns])
        return self.seen.in_order(parts)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a seen value, or from the mixture, whose draws are then rounded."""
        binned, shares = outputs.split([self.unseen.n_outputs, self.seen.n_outputs], -1)
        rest = self.unseen.sample(binned, generator)
        codes = self.seen.sample(shares, generator).long()
        parts = []
        for group, columns in enumerate(self.seen.columns):
            values = getattr(self, f"values_{group}").to(rest)
            code = codes[..., columns]
            padded = torch.cat([values, values[:, :1]], 1).expand(*code.shape, -1)
            drawn = padded.gather(-1, code[..., None])[..., 0]
            parts.append(torch.where(code == values.shape[1], rest[..., columns], drawn))
        return self.seen.in_order(parts)


def values_seen(column: np.ndarray) -> tuple[np.ndarray | None, int]:
    """Find the values of an integer column, or of a part of its rows.

    Parameters
    ----------
    column : ndarray of shape (n,)
        Missing entries are nan.

    Returns
    -------
    values : ndarray or None
        The values that occur; None if there are more than `MAX_VALUES`.
    n_present : int
        Number of entries that are not missing.
    """
    present = column[~np.isnan(column)]
    values = np.unique(present)
    return values if len(values) <= MAX_VALUES else None, len(present)


def few_values(parts: Sequence[tuple[np.ndarray | None, int]]) -> np.ndarray | None:
    """Sorted values of a column if they are few and frequent, else None.

    Parameters
    ----------
    parts : sequence of (values, n_present)
        The results of `values_seen` for the parts of the column.
    """
    known = [values for values, _ in parts if values is not None]
    if len(known) < len(parts):
        return None
    values = np.unique(np.concatenate(known))
    n_present = sum(n for _, n in parts)
    return values if len(values) <= min(MAX_VALUES, n_present / ROWS_PER_VALUE) else None


def are_told_apart(values: np.ndarray, half_width: float) -> bool:
    """Whether float32 can distinguish these standardised values from their neighbours."""
    return half_width > RESOLUTION * (1 + np.abs(values).max())
