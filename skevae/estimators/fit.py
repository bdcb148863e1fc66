"""One fit: from the user's rows to the fitted attributes of an estimator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from skevae.estimators.agreement import check_same_fit
from skevae.estimators.callbacks import EpochCallbacks
from skevae.estimators.checkpoints import open_checkpoint
from skevae.estimators.history import joined_history, kept_epoch, kept_state, warn_of_run
from skevae.estimators.mode import Mode, unchanged_on_failure
from skevae.estimators.rows import Rows, in_memory, normalised, rows_to_train, with_weights
from skevae.estimators.splits import descriptive_rows, split
from skevae.estimators.standardizer import Standardizer
from skevae.estimators.streams import from_stream
from skevae.networks.build import draws_globally
from skevae.partitions.base import PartitionEstimate
from skevae.training.checkpoint import TrainingFile
from skevae.training.loop import Loop, Run, Schedule
from skevae.training.parameters import (
    ParameterVector,
    WeightAverage,
    make_optimizer,
    optimizer_state,
    resume_optimizer,
)
from skevae.training.step import Loss, RecordedStep, Step
from skevae.utils.device import copy_to, own_context, resolve_device
from skevae.utils.random import draw_seed, lent_globals, make_generator, seed_of_pass
from skevae.utils.ranks import Shard, current_ranks
from skevae.utils.threads import is_small, one_thread
from skevae.utils.weights import checked_weights, rows_with_weight, unpacked

# Gradients with a larger norm are scaled down: a single minibatch must not derail a run.
MAX_GRADIENT_NORM = 10.0


class Model(NamedTuple):
    """The model to train: a module, in the coordinates of a standardizer."""

    module: nn.Module
    standardizer: Standardizer


class Fit(ABC):
    """One fit of an estimator that is trained by gradient steps.

    A subclass defines the module (`start`, `resume`), the loss and the validation; the procedure is
    the same for all estimators.

    Parameters
    ----------
    estimator : TorchDensityEstimator
        Its parameters are read; its attributes only change when `run` succeeds.
    X, y, sample_weight : the arguments of ``fit``
    mode : Mode

    Attributes
    ----------
    ranks : Ranks
        The processes that run this fit together; X is the part of the rows of this process.
    shard : Shard
        The position of its rows among those of all ranks.
    averaging : float
        Decay per step of the moving average of the weights, which is validated and kept.
    max_drops : int
        How often early stopping continues with a lower learning rate instead of stopping.
    """

    averaging: ClassVar[float]
    max_drops: ClassVar[int] = 0

    seeds: Any  # a NamedTuple of the subclass, a name for each use
    X: np.ndarray
    weights: np.ndarray | None  # of mean 1
    shifts: dict[str, float]  # added to terms of the history, to bring them to the scale of X
    shard: Shard
    device: torch.device
    module: Any
    standardizer: Standardizer
    draws: torch.Generator
    partition: PartitionEstimate

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, mode: Mode) -> None:
        self.estimator, self.mode, self.ranks = estimator, mode, current_ranks()
        # With feature names, for scoring callbacks. A stream is read here, once.
        self.given, self.y, self.sample_weight = from_stream(X), y, sample_weight

    # --- defined by a subclass -----------------------------------------------------------------

    @abstractmethod
    def make_seeds(self, seed: int) -> Any:
        """Derive independent seeds; field names such as ``draws`` tell their use."""

    @abstractmethod
    def start(self) -> Model:
        """Build an untrained module and the standardizer of X."""

    @abstractmethod
    def resume(self) -> Model:
        """Return the module and the standardizer of the fitted estimator."""

    @abstractmethod
    def prepare(self, rows: Tensor) -> None:
        """Initialise a new module from training rows, before it is trained."""

    @abstractmethod
    def make_shifts(self, train: Rows, held_out: Tensor | None) -> dict[str, float]:
        """Compute `shifts` for these rows, whose last column holds weights, if any."""

    @abstractmethod
    def make_partition(self) -> PartitionEstimate:
        """Return the estimate of ln Z for training."""

    @abstractmethod
    def make_loss(self) -> Loss:
        """Return the loss of a minibatch; the last column of the rows holds weights, if any."""

    @abstractmethod
    def validate(self, held_out: Tensor) -> float:
        """Score held-out rows, with their weights; greater is better."""

    @abstractmethod
    def attributes(self) -> dict[str, Any]:
        """Fitted attributes for the current state of the module."""

    def conclude(self, rows: Rows) -> None:  # noqa: B027
        """Adapt the module to the rows after training, if necessary."""

    def finish(self, rows: Rows) -> dict[str, Any]:
        """Return attributes whose computation needs the fitted estimator."""
        return {}

    def make_recorded(self, step: Step) -> RecordedStep | None:
        """Return the step as a CUDA graph, if enabled."""
        return None

    @property
    def warmup(self) -> float:
        """Fraction of the epochs during which the loss is warmed up."""
        return 0.0

    # --- the procedure -------------------------------------------------------------------------

    def run(self) -> None:
        """Train, then set the fitted attributes of the estimator.

        Raises
        ------
        KeyboardInterrupt
            If training was interrupted, after the best state was kept in the estimator.
        """
        with own_context(), self.ranks.working():
            with unchanged_on_failure(self.estimator):
                checkpoint = self._begin()
                rows = rows_to_train(self.X, self.standardizer, self.device)
                weighted = with_weights(rows, self.weights)
                train, held_out = (weighted, None) if self.mode.one_pass else self._split(weighted)
                self.shifts = self.make_shifts(train, held_out)
                if not self.mode.continues:
                    self.prepare(descriptive_rows(train, self.ranks, self.weights is not None))
                self.ranks.equalise([*self.module.parameters(), *self.module.buffers()])
                result, callbacks = self._train(train, held_out, checkpoint)
                self.conclude(rows)
                self._set_attributes(result)
            # If a later step fails, the trained model remains usable.
            self.estimator._set_fitted(self.finish(rows))
            callbacks.finish()
        if result.status == "interrupted":
            raise KeyboardInterrupt(
                f"Training was interrupted; {kept_state(result)}, and the estimator can be used."
            )

    def _begin(self) -> TrainingFile | None:
        """Set the seeds, build or resume the module, and find the checkpoint of this fit."""
        estimator, continues = self.estimator, self.mode.continues
        min_samples = 1 if continues else 2
        check_same_fit(self.ranks, estimator, self.mode.value, self.sample_weight is not None)
        self.X = estimator._check_rows(
            self.given, reset=not continues, min_samples=min_samples, ranks=self.ranks
        )
        self.ranks.agree("the number of columns of X", self.X.shape[1])
        self.weights = checked_weights(self.sample_weight, self.X, self.ranks)
        if self.weights is not None:
            self.X, self.weights = rows_with_weight(self.X, self.weights, min_samples)
        self.shard = self.ranks.shard(len(self.X))
        self.device = resolve_device(estimator.device)
        # Fits and passes of this model so far.
        self.n_passes: int = getattr(estimator, "_n_passes", 1) if continues else 0
        seed = draw_seed(estimator.random_state)
        fresh = seed_of_pass(self.ranks.gather(seed)[0], self.n_passes)
        self.seeds = self.make_seeds(fresh)
        model = self.resume() if continues else self.start()
        checkpoint = None
        if self.mode is Mode.FIT and estimator.checkpoint_dir is not None:
            # The file is identified by parameters, X and the module; it holds the seed of the run.
            checkpoint = open_checkpoint(
                estimator, self.device, model.module, self.X, self.weights, self.ranks
            )
            if (seed := checkpoint.seed(fresh)) != fresh:
                self.seeds = self.make_seeds(seed)
                model = self.start()
        # For the same table, the same rows are held out each time: others were used in training.
        own = self.seeds.split
        self.split_seed: int = getattr(estimator, "_split_seed", own) if continues else own
        self.module = copy_to(model.module, self.device, torch.float32)
        self.standardizer = model.standardizer
        return checkpoint

    def _split(self, rows: Rows) -> tuple[Rows, Tensor | None]:
        """Hold out rows, if early stopping needs them: (training, held out)."""
        if not self.estimator.early_stopping:
            return rows, None
        part = self.estimator.validation_fraction
        train, held_out = split(rows, self.shard, part, self.split_seed)
        return train if self.weights is None else normalised(train, self.ranks), held_out

    def _train(
        self, train: Rows, held_out: Tensor | None, checkpoint: TrainingFile | None
    ) -> tuple[Run, EpochCallbacks]:
        estimator = self.estimator
        self.n_train = self.ranks.total(len(train))
        self.draws = self._own_generator(self.seeds.draws)
        self.partition = self.make_partition()
        self.partition.ranks = self.ranks
        weights = ParameterVector.of(self.module)
        optimizer = make_optimizer(weights, estimator.learning_rate)
        state = getattr(estimator, "_training_state", None)
        if self.mode is Mode.NEXT_PASS and state is not None:
            resume_optimizer(optimizer, state["optimizer"])
            if state["kind"] == type(self.partition).__name__:
                self.partition.resume(state["partition"])
        average = WeightAverage(weights, self.averaging)
        step = Step(
            self.make_loss(), weights, optimizer, average, MAX_GRADIENT_NORM, ranks=self.ranks
        )
        global_draws = self._own_generator(self.seeds.globals)
        max_epochs = 1 if self.mode.one_pass else estimator.max_iter
        callbacks = EpochCallbacks(estimator, self.given, self.y, max_epochs, self.attributes)
        lent = lent_globals(global_draws) if draws_globally(self.module) else nullcontext()
        small = is_small(self.module, estimator._resolve_batch_size(self.n_train))
        self.module.train()
        with lent as lent_generator, one_thread(small and not self.partition.is_expensive):
            if checkpoint is not None:
                generators = {"draws": self.draws, "globals": lent_generator}
                checkpoint.attach(self.partition, {k: g for k, g in generators.items() if g})
            result = self._loop(step, train, held_out, max_epochs, callbacks, checkpoint)()
        self.module.eval()
        warn_of_run(result, estimator, self.warmup * max_epochs)
        self._training_state = None
        if self.mode.one_pass:
            self._training_state = {
                "optimizer": optimizer_state(optimizer),
                "kind": type(self.partition).__name__,
                "partition": self.partition.state(),
            }
        return result, callbacks

    def _loop(
        self,
        step: Step,
        train: Rows,
        held_out: Tensor | None,
        max_epochs: int,
        callbacks: EpochCallbacks,
        checkpoint: TrainingFile | None,
    ) -> Loop:
        estimator = self.estimator
        schedule = Schedule(
            batch_size=estimator._resolve_batch_size(self.n_train),
            max_epochs=max_epochs,
            warmup=self.warmup,
            patience=estimator.n_iter_no_change,
            tol=estimator.tol,
            max_drops=self.max_drops,
            max_seconds=math.inf if self.mode.one_pass else estimator.max_time or math.inf,
        )

        @torch.no_grad()
        def validate() -> float:
            assert held_out is not None
            if not len(held_out):
                return self.ranks.average(0.0, 0.0)
            self.module.eval()
            score = self.validate(held_out)
            self.module.train()
            _, weight = unpacked(held_out, self.weights is not None)
            return self.ranks.average(
                score, len(held_out) if weight is None else weight.sum().item()
            )

        @torch.no_grad()
        def first_batch() -> float:
            # At full progress, where the loss is that of the end of training.
            rows = in_memory(train[: self.ranks.share(schedule.batch_size)])
            score = step.loss(rows, 1.0)[1]["objective"].item() if len(rows) else 0.0
            return self.ranks.average(score, len(rows))

        def begin() -> None:
            self.partition.refresh()
            callbacks.begin()

        def end(epoch: int, record: dict[str, float]) -> bool:
            if estimator.verbose and self.ranks.rank == 0:
                terms = "  ".join(f"{k} {v:.4f}" for k, v in self._on_scale_of_x(record).items())
                print(f"[{type(estimator).__name__}] epoch {epoch}  {terms}")
            return callbacks.end()

        return Loop(
            step,
            train,
            schedule,
            generator=self._own_generator(self.seeds.order),
            validate=None if held_out is None else validate,
            check=first_batch if held_out is None else validate,
            on_epoch_begin=begin,
            on_epoch_end=end,
            checkpoint=checkpoint,
            recorded=self.make_recorded(step),
        )

    def _own_generator(self, seed: int) -> torch.Generator:
        return make_generator(self.ranks.seed(seed), self.device)

    def _on_scale_of_x(self, record: dict[str, Any]) -> dict[str, Any]:
        return {name: value + self.shifts.get(name, 0.0) for name, value in record.items()}

    def _set_attributes(self, result: Run) -> None:
        new = {name: np.asarray(values) for name, values in result.history.items()}
        old = self.estimator.history_ if self.mode.continues else {}
        history = joined_history(old, self._on_scale_of_x(new))
        self.estimator._set_fitted(
            {
                **self.attributes(),
                "history_": history,
                "n_iter_": len(history.get("objective", ())),
                "best_n_iter_": kept_epoch(old, result, getattr(self.estimator, "best_n_iter_", 0)),
                "_training_state": self._training_state,
                "_n_passes": self.n_passes + 1,
                "_split_seed": self.split_seed,
            }
        )
