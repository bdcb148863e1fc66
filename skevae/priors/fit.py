"""The fit of a prior on its own: maximum likelihood on rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from skevae.densities.base import Density, rows_at_once
from skevae.estimators.base import kept
from skevae.estimators.fit import Fit, Model
from skevae.estimators.rows import Rows
from skevae.estimators.standardizer import Standardizer
from skevae.partitions import DENSITY_PARTITIONS, resolve_partition
from skevae.partitions.base import MIN_BASE_VARIANCE, DensityPartition
from skevae.training.step import Loss
from skevae.utils.random import make_generator, spawn
from skevae.utils.weights import by_weight, unpacked, weighted_average, weighted_mean


class Seeds(NamedTuple):
    """Independent seeds of one fit, named by their use."""

    initialise: int
    draws: int
    split: int
    validate: int
    log_partition: int
    rows: int
    globals: int

    @property
    def order(self) -> int:
        """Seed of the order of the rows, the same as that of the split."""
        return self.split


class PriorFit(Fit):
    """One fit of a prior estimator, whose module is a density of the standardised rows."""

    averaging = 0.99

    module: Density
    partition: DensityPartition

    def make_seeds(self, seed: int) -> Seeds:
        return Seeds(*spawn(seed, len(Seeds._fields)))

    def start(self) -> Model:
        standardizer = Standardizer(
            self.X, self.estimator.standardize, sample_weight=self.weights, ranks=self.ranks
        )
        generator = make_generator(self.seeds.initialise)
        return Model(self.estimator.make_density(self.X.shape[1], generator), standardizer)

    def resume(self) -> Model:
        return Model(self.estimator.density_, self.estimator._standardizer)

    def make_shifts(self, train: Rows, held_out: Tensor | None) -> dict[str, float]:
        # ln Z refers to the coordinates of X, where it is larger by the log-volume of the scaling.
        log_volume = self.standardizer.log_volume
        return {"objective": -log_volume, "validation": -log_volume, "log_partition": log_volume}

    def prepare(self, rows: Tensor) -> None:
        self.module.initialise(rows, make_generator(self.seeds.rows, self.device))
        self.module.set_base(rows.mean(0), rows.var(0, correction=0) + MIN_BASE_VARIANCE)

    def make_partition(self) -> DensityPartition:
        name = resolve_partition([self.estimator.partition], self.module)
        return DENSITY_PARTITIONS[name](self.module, self.draws)

    def make_loss(self) -> Loss:
        def loss(x: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
            x, weight = unpacked(x, self.weights is not None)
            starts = x
            if weight is not None and self.partition.starts_at_rows:
                starts = x[by_weight(weight, len(x), self.draws)]
            log_partition = self.partition.evaluate(starts)
            if weight is None:
                energy = self.module.mean_energy(x)
            else:
                energy = weighted_mean(self.module.energy(x), weight)
                log_partition = log_partition * weight.mean()
            terms = {"objective": -energy - log_partition, "energy": energy}
            terms["log_partition"] = log_partition
            return energy + log_partition, {name: term.detach() for name, term in terms.items()}

        return loss

    @torch.no_grad()
    def validate(self, held_out: Tensor) -> float:
        generator = make_generator(self.seeds.validate, self.device)
        log_partition = self.module.quick_log_partition(generator)
        self.partition.note(log_partition)
        x, weight = unpacked(held_out, self.weights is not None)
        parts = x.split(rows_at_once(self.module, x.element_size()))
        energy = torch.cat([self.module.energy(part) for part in parts])
        return -weighted_average(energy, weight) - log_partition

    def attributes(self) -> dict[str, Any]:
        seed = self.seeds.log_partition
        return self.estimator._attributes(kept(self.module), self.standardizer, seed)

    def finish(self, rows: Rows) -> dict[str, Any]:
        if not self.mode.one_pass:
            # Computed now, so that its cost and its warning are part of fit.
            self.estimator.normalize()
        return {}
