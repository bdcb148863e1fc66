"""The exact ln Z at every training step."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.densities.base import Density
from skevae.partitions.base import DensityPartition


class ExactPartition(DensityPartition):
    """The exact ln Z.

    Whether its tables must be checked for underflow is decided once per epoch, because each check
    makes the host wait for a GPU. If they underflow in an epoch without checks, ln Z is nan and
    training ends as diverged.
    """

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        super().__init__(density, generator)
        self._checked = True
        self.is_expensive = not density.trains_exactly
        if not density.has_exact_log_partition:
            raise ValueError(
                f"partition='exact' cannot be used for this prior: {density.why_not_exact()}. "
                "Alternatives are partition='persistent' and partition='auto'."
            )

    def refresh(self) -> None:
        self._checked = not self.density.is_far_from_underflow()

    def evaluate(self, z: Tensor) -> Tensor:
        if self._checked:
            return self.density.log_partition_among(self.ranks)
        return self.density.unchecked_log_partition()
