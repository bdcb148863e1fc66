"""The exact ln Z at every training step."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.densities.base import Density
from skevae.partitions.base import DensityPartition


class ExactPartition(DensityPartition):
    """ln Z itself."""

    def __init__(self, density: Density, generator: torch.Generator) -> None:
        super().__init__(density, generator)
        if not density.has_exact_log_partition:
            raise ValueError(
                f"partition='exact' is out of reach of this prior: {density.describe_size()}. Use "
                "a smaller prior, partition='persistent', or partition='auto'."
            )

    def evaluate(self, z: Tensor) -> Tensor:
        return self.density.log_partition()
