"""Estimates of ln Z in training, one file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from skevae.densities.base import Density
from skevae.partitions.aggregate import AggregatePartition
from skevae.partitions.base import DensityPartition, PartitionEstimate
from skevae.partitions.chains import (
    ContrastivePartition,
    NoiseContrastivePartition,
    PersistentPartition,
)
from skevae.partitions.exact import ExactPartition
from skevae.partitions.posterior import PosteriorPartition
from skevae.utils.constraints import Entries

PARTITIONS: dict[str, type[PartitionEstimate]] = {
    "posterior": PosteriorPartition,
    "aggregate": AggregatePartition,
    "exact": ExactPartition,
    "persistent": PersistentPartition,
    "contrastive": ContrastivePartition,
    "contrastive-from-noise": NoiseContrastivePartition,
}

# The estimates that need no posterior, for training a density on its own.
DENSITY_PARTITIONS: Mapping[str, type[DensityPartition]] = Entries(
    cast(dict[str, type[DensityPartition]], PARTITIONS), lambda kind: not kind.needs_posterior
)


def resolve_partition(choices: Sequence[str], density: Density) -> str:
    """Return the first choice that is not "auto"; else "exact" if it is cheap enough."""
    affordable = "exact" if density.trains_exactly else "persistent"
    return next((choice for choice in choices if choice != "auto"), affordable)
