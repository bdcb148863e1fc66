"""The likelihood of a table with columns of different kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.likelihoods.categorical import Categorical
from skevae.likelihoods.integer import BinnedMixture
from skevae.likelihoods.seen import SeenIntegers, SeenValues, are_told_apart
from skevae.utils.memory import pieces

# Number of Gaussians in the mixture of an integer column.
N_INTEGER_COMPONENTS = 3


class Mixed(Likelihood):
    """Product of likelihoods of groups of columns.

    Parameters
    ----------
    parts : sequence of (columns, Likelihood)
        Together, they contain each column once.
    """

    def __init__(self, parts: Sequence[tuple[Sequence[int], Likelihood]]) -> None:
        order = torch.tensor([column for columns, _ in parts for column in columns])
        super().__init__(len(order), sum(part.n_outputs for _, part in parts))
        self.columns = [list(columns) for columns, _ in parts]
        self.modules_of_parts = nn.ModuleList(part for _, part in parts)
        self.order: Tensor
        self.register_buffer("order", order.argsort())

    @property
    def parts(self) -> list[tuple[list[int], Likelihood]]:
        """Columns and likelihood of each part."""
        return list(zip(self.columns, self.modules_of_parts, strict=True))  # type: ignore[arg-type]

    def _each(self, outputs: Tensor) -> list[tuple[list[int], Likelihood, Tensor]]:
        """Columns, likelihood and outputs of each part."""
        pieces = outputs.split([part.n_outputs for _, part in self.parts], -1)
        return [(*part, piece) for part, piece in zip(self.parts, pieces, strict=True)]

    def _in_order(self, values: list[Tensor]) -> Tensor:
        return torch.cat(values, -1).index_select(-1, self.order)

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return self._in_order(
            [part.feature_log_density(x[..., c], piece) for c, part, piece in self._each(outputs)]
        )

    def mean(self, outputs: Tensor) -> Tensor:
        return self._in_order([part.mean(piece) for _, part, piece in self._each(outputs)])

    def pooled_mean(self, outputs: Tensor) -> Tensor:
        return self._in_order([part.pooled_mean(piece) for _, part, piece in self._each(outputs)])

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self._in_order(
            [part.sample(piece, generator) for _, part, piece in self._each(outputs)]
        )

    def check_rows(self, X: np.ndarray) -> None:
        # In pieces, since columns are copied.
        for piece in pieces(X):
            for columns, part in self.parts:
                part.check_rows(piece[:, columns])

    def prepare(self, X: np.ndarray) -> None:
        for columns, part in self.parts:
            if type(part).prepare is not Likelihood.prepare:
                part.prepare(X[:, columns])

    def training_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self._rows(lambda part: part.training_rows, x, generator)

    def scored_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self._rows(lambda part: part.scored_rows, x, generator)

    def _rows(
        self,
        method: Callable[[Likelihood], Callable[[Tensor, torch.Generator], Tensor]],
        x: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        return self._in_order(
            [method(part)(x[..., columns], generator) for columns, part in self.parts]
        )


def make_table_likelihood(
    family: LikelihoodFamily,
    n_categories: np.ndarray,
    half_units: np.ndarray,
    values: Sequence[SeenValues | None],
) -> Likelihood:
    """Make the likelihood of a table.

    Parameters
    ----------
    family : LikelihoodFamily
        Likelihood of the continuous columns.
    n_categories : ndarray of int of shape (n_features,)
        0 for columns of numbers.
    half_units : ndarray of shape (n_features,)
        Half a unit of integer columns, in standardised coordinates; nan for other columns.
    values : sequence of SeenValues or None
        For integer columns with few values, these values in standardised coordinates.
    """
    categorical = np.flatnonzero(n_categories)
    is_seen = np.array(
        [
            v is not None and are_told_apart(v.values, w)
            for v, w in zip(values, half_units, strict=True)
        ]
    )
    integer = np.flatnonzero(~np.isnan(half_units) & ~is_seen)
    seen = np.flatnonzero(is_seen).tolist()
    continuous = np.flatnonzero((n_categories == 0) & np.isnan(half_units))
    if len(continuous) == len(n_categories):
        return family.make_likelihood(len(continuous))
    parts: list[tuple[Sequence[int], Likelihood]] = []
    if len(continuous):
        parts.append((continuous.tolist(), family.make_likelihood(len(continuous))))
    if len(integer):
        half_widths = torch.from_numpy(half_units[integer])
        parts.append((integer.tolist(), BinnedMixture(half_widths, N_INTEGER_COMPONENTS)))
    if len(seen):
        half_widths = torch.from_numpy(half_units[seen])
        known = [found for j in seen if (found := values[j]) is not None]
        of_columns = [torch.from_numpy(found.values) for found in known]
        n_present = [int(found.counts.sum()) for found in known]
        parts.append((seen, SeenIntegers(half_widths, of_columns, n_present)))
    if len(categorical):
        counts = n_categories[categorical].tolist()
        parts.append((categorical.tolist(), Categorical(counts)))
    return Mixed(parts)
