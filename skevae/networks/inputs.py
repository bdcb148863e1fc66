"""Inputs of an encoder: numbers, one-hot categories, and a mask of observed entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Inputs(nn.Module):
    """Map rows to inputs of a network: missing numbers are filled, categories become one-hot.

    A missing category is a row of zeros. With ``with_mask`` the inputs end with a one for each
    observed entry and a zero for each missing one.

    Parameters
    ----------
    fill : Tensor of shape (n_features,)
        Values that replace missing numbers.
    n_categories : sequence of int
        Number of categories of each column, with values 0, 1, ...; 0 for a numeric column.
    with_mask : bool
    """

    def __init__(self, fill: Tensor, n_categories: Sequence[int], with_mask: bool) -> None:
        super().__init__()
        counts = torch.tensor(list(n_categories))
        columns = torch.arange(len(counts))
        self.with_mask = bool(with_mask)
        self.numbers: Tensor
        self.fill: Tensor
        self.owner: Tensor
        self.category: Tensor
        self.register_buffer("numbers", columns[counts == 0])
        self.register_buffer("fill", fill[counts == 0].float())
        # The column and the category of each one-hot input.
        self.register_buffer("owner", columns.repeat_interleave(counts))
        levels = [torch.arange(int(count)) for count in counts]
        self.register_buffer("category", torch.cat(levels).float())
        self.n_outputs = int((counts == 0).sum() + counts.sum() + with_mask * len(counts))

    def forward(self, x: Tensor) -> Tensor:
        numbers = x.index_select(-1, self.numbers)
        parts = [torch.where(numbers.isnan(), self.fill, numbers)]
        parts.append((x.index_select(-1, self.owner) == self.category).to(x.dtype))
        if self.with_mask:
            parts.append((~x.isnan()).to(x.dtype))
        return torch.cat(parts, -1)


class TableEncoder(nn.Sequential):
    """An encoder whose network receives the `Inputs` of a row.

    Parameters
    ----------
    inputs : Inputs
    network : Module, (..., inputs.n_outputs) -> (..., posterior outputs)
    """

    inputs: Inputs
    network: nn.Module

    def __init__(self, inputs: Inputs, network: nn.Module) -> None:
        super().__init__()
        self.inputs = inputs
        self.network = network
