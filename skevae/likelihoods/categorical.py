"""Categorical likelihood: a softmax over the categories of each column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from skevae.likelihoods.base import Likelihood


class Categorical(Likelihood):
    r"""p(x | z) = prod_j softmax(outputs_j)[x_j], for columns with values 0, 1, ..., K_j - 1.

    Parameters
    ----------
    n_categories : sequence of int
        K_j of each column.
    """

    def __init__(self, n_categories: Sequence[int]) -> None:
        counts = torch.tensor(list(n_categories))
        super().__init__(len(counts), int(counts.sum()))
        # Columns with the same number of categories are evaluated together.
        self.sizes = counts.unique().tolist()
        self.columns = [(counts == size).nonzero()[:, 0].tolist() for size in self.sizes]
        self.order: Tensor
        order = torch.tensor([column for group in self.columns for column in group])
        self.register_buffer("order", order.argsort())

    def grouped_logits(self, outputs: Tensor) -> Iterator[tuple[list[int], Tensor]]:
        """Columns with equally many categories, and their logits, (..., n_columns, K)."""
        widths = [size * len(group) for size, group in zip(self.sizes, self.columns, strict=True)]
        for columns, size, part in zip(
            self.columns, self.sizes, outputs.split(widths, -1), strict=True
        ):
            yield columns, part.unflatten(-1, (len(columns), size))

    def in_order(self, parts: list[Tensor]) -> Tensor:
        """Put columns that were evaluated together back into the original order."""
        return torch.cat(parts, -1).index_select(-1, self.order)

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        parts = []
        for columns, logits in self.grouped_logits(outputs):
            codes = x[..., columns].long()
            shape = torch.broadcast_shapes(logits.shape[:-1], codes.shape)
            log_probability = logits.log_softmax(-1).expand(*shape, -1)
            chosen = log_probability.gather(-1, codes.expand(shape)[..., None])
            parts.append(chosen[..., 0])
        return self.in_order(parts)

    def mean(self, outputs: Tensor) -> Tensor:
        """Most probable category: (..., n_outputs) -> (..., n_features)."""
        parts = [logits.argmax(-1).to(outputs.dtype) for _, logits in self.grouped_logits(outputs)]
        return self.in_order(parts)

    def pooled_mean(self, outputs: Tensor) -> Tensor:
        parts = [part.softmax(-1).mean(0).argmax(-1) for _, part in self.grouped_logits(outputs)]
        return self.in_order(parts).to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        parts = []
        for _, logits in self.grouped_logits(outputs):
            below = logits.softmax(-1).cumsum(-1)[..., :-1]
            uniform = torch.rand(
                (*below.shape[:-1], 1),
                generator=generator,
                dtype=below.dtype,
                device=below.device,
            )
            parts.append((uniform > below).sum(-1).to(outputs.dtype))
        return self.in_order(parts)
