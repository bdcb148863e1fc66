"""The training loop, which only depends on parameters and a loss, not on autoencoders.

The order of a step is: rate, forward, backward, clip, step, log. No step waits for the device:
logged terms are summed on the device and read once per epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from skevae.training.parameters import lower_rate, optimizer_state, resume_optimizer
from skevae.training.progress import Progress
from skevae.training.step import RecordedStep, Step
from skevae.utils.archive import check_form

Status = Literal[
    "running", "finished", "converged", "stopped", "out of time", "diverged", "interrupted"
]

# A run has diverged if it ends this many nats below its start, and more than twice as low.
DIVERGENCE_NATS = 100.0


class Checkpoint(Protocol):
    """Storage for the state of a run."""

    def load(self, resume: Callable[[dict[str, Any]], None]) -> bool:
        """Resume from the last saved state; return whether there is one."""

    def save(self, state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        """Save the state; the ``last`` state must be saved, others may be skipped."""


class Rows(Protocol):
    """Rows that are not stored in one tensor."""

    device: torch.device
    shape: tuple[int, int]

    def minibatches(self, order: Tensor, sizes: list[int]) -> Iterator[Tensor]:
        """Rows in the given order, as tensors of the given sizes on the device."""


@dataclass(frozen=True)
class Schedule:
    """How long a run lasts, and when it stops.

    Parameters
    ----------
    batch_size, max_epochs : int
    warmup : float in [0, 1]
        Fraction of the epochs during which the loss is warmed up, so that no state can be kept.
    patience : int
        Number of consecutive epochs without an improvement of more than ``tol`` before training
        stops.
    tol : float
    max_drops : int
        How often training continues from the best state, with a lower learning rate, instead of
        stopping.
    max_seconds : float
        Seconds after which training stops: at the next step, or with a checkpoint at the end of the
        epoch, because only complete epochs can be resumed.
    """

    batch_size: int
    max_epochs: int
    warmup: float = 0.0
    patience: int = 10
    tol: float = 0.0
    max_drops: int = 0
    max_seconds: float = math.inf


@dataclass
class Run:
    """The record of a training run.

    Attributes
    ----------
    history : dict of str to list of float
        Mean of every named term, one entry per epoch; also "validation" if there is one.
    status : str
        "finished" after all epochs, "converged" by early stopping, "stopped" by `on_epoch_end`,
        "out of time", "diverged", or "interrupted" by the keyboard; "running" before.
    best_epoch : int
        The epoch, counted from 1, whose state was kept; 0 if the initial state was kept.
    failed_epoch : int
        The epoch, counted from 1, with terms that were not finite; 0 if there is none.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    status: Status = "running"
    best_epoch: int = 0
    failed_epoch: int = 0

    def append(self, record: dict[str, float]) -> None:
        for name, value in record.items():
            self.history.setdefault(name, []).append(value)


class Loop:
    """Minimise a loss over minibatches of X; the final parameters are those of the best state.

    Parameters
    ----------
    step : Step
        Contains the loss, the parameters, their optimizer and their average.
    X : Tensor of shape (n, ...) or Rows
        On the device; batches are taken by index.
    schedule : Schedule
    generator : torch.Generator
        Generator of the order of the rows, on the device of X.
    validate : callable () -> float, optional
        Score of the current parameters; greater is better. If given, the epoch with the best score
        is kept, and training stops when the score no longer improves. Otherwise, the last epoch is
        kept.
    check : callable () -> float, optional
        Score to detect divergence: if the score of the state to be kept is far below the initial
        score, even if it is finite, the initial state is restored.
    on_epoch_begin : callable ()
    on_epoch_end : callable (epoch, record) -> bool
        Called with the average in the parameters; returns True to stop.
    checkpoint : Checkpoint, optional
        Storage for the state after each epoch: an interrupted run resumes from it with the same
        result.
    recorded : RecordedStep, optional
        Contains ``step`` and makes the steps instead of it.
    """

    def __init__(
        self,
        step: Step,
        X: Tensor | Rows,
        schedule: Schedule,
        *,
        generator: torch.Generator,
        validate: Callable[[], float] | None = None,
        check: Callable[[], float] | None = None,
        on_epoch_begin: Callable[[], None] = lambda: None,
        on_epoch_end: Callable[[int, dict[str, float]], bool] = lambda epoch, record: False,
        checkpoint: Checkpoint | None = None,
        recorded: RecordedStep | None = None,
    ) -> None:
        self.step = step
        self.X = X
        self.schedule = schedule
        self.generator = generator
        self.validate = validate
        self.check = check
        self.on_epoch_begin = on_epoch_begin
        self.on_epoch_end = on_epoch_end
        self.checkpoint = checkpoint
        self._take = step if recorded is None else recorded
        self.ranks = step.ranks
        self.n_total = self.ranks.total(X.shape[0])
        at_start = step.weights.snapshot()
        self.run = Run()
        self.past = Progress(start=at_start, best=at_start)

    def __call__(self) -> Run:
        """Train until the end of the schedule, early stopping, divergence or an interrupt."""
        self._deadline = time.monotonic() + self.schedule.max_seconds
        try:
            with self.ranks.interruptible():
                self._begin()
                while self.run.status == "running":
                    self._epoch()
                    late = self.ranks.any(self._is_out_of_time())
                    out_of_time = late and self.run.status == "running"
                    self._save(last=out_of_time)
                    if out_of_time:
                        # Set after saving, so that the saved state can be resumed.
                        self.run.status = "out of time"
        except KeyboardInterrupt:
            self.run.status = "interrupted"
        run = self.run
        self.step.weights.restore(self.past.best)
        if self.check is not None:
            end_score, start_score = self.check(), self.past.start_score
            floor = start_score - DIVERGENCE_NATS - abs(start_score)
            # A nan score counts as a decrease, unless it was nan from the start.
            if end_score < floor or math.isnan(end_score) > math.isnan(start_score):
                run.status, run.best_epoch = "diverged", 0
                self.step.weights.restore(self.past.start)
            # A check can change running statistics, which depend on the rows of each rank.
            self.ranks.equalise(self.step.weights.buffers, average=True)
        return run

    def _begin(self) -> None:
        resumed = self.checkpoint is not None and self.checkpoint.load(self.resume)
        if not resumed and self.check is not None:
            self.past.start_score = self.check()

    def _epoch(self) -> None:
        past, run = self.past, self.run
        past.epoch += 1
        self.on_epoch_begin()
        share = self._take_steps()
        # Some statistics, such as those of batch normalisation, still differ between ranks.
        self.ranks.equalise(self.step.weights.buffers, average=True)
        logs = self.ranks.gather(self.step.take_log())
        names = max(logs, key=len)
        means = {name: sum(log.get(name, 0.0) for log in logs) / share for name in names}
        finite = all(math.isfinite(term) for term in means.values())
        # The last gradient can make parameters non-finite after the last term was computed.
        finite = finite and bool(self.step.weights.values.isfinite().all())
        with self.step.average.applied():
            if finite and self.validate is not None:
                means["validation"] = self.validate()
                finite = math.isfinite(means["validation"])
            if not finite:
                run.history = run.history or {name: [] for name in means}
                run.status, run.failed_epoch = "diverged", past.epoch
                return
            run.append(means)
            score = means.get("validation", past.best_score)
            warm = past.epoch > self.schedule.warmup * self.schedule.max_epochs
            warm = warm or past.epoch == self.schedule.max_epochs
            self._keep(score, warm)
            stop = self.ranks.any(self.on_epoch_end(past.epoch, means))
        if self.validate is not None and warm:
            past.stale = 0 if score > past.reference_score + self.schedule.tol else past.stale + 1
            past.reference_score = max(score, past.reference_score)
        self._judge(stop)

    def _save(self, *, last: bool) -> None:
        if self.checkpoint is not None and self.run.status != "diverged":
            self.checkpoint.save(self.state, last=last or self.run.status != "running")

    def _is_out_of_time(self) -> bool:
        return time.monotonic() >= self._deadline

    def _take_steps(self) -> float:
        """Make the steps of an epoch; return the fraction of rows used, 1 unless out of time."""
        n_rows, n_total = self.X.shape[0], self.n_total
        sizes = minibatch_sizes(n_rows, n_total, self.schedule.batch_size)
        order = torch.randperm(n_rows, generator=self.generator, device=self.X.device)
        n_seen = 0
        for index, x in enumerate(minibatches(self.X, order, sizes)):
            progress = (self.past.epoch - 1 + index / len(sizes)) / self.schedule.max_epochs
            self._take(x, progress, x.shape[0] / n_total)
            n_seen += x.shape[0]
            # Uses the clock of the host, without waiting for the device.
            if self.checkpoint is None and self.ranks.stops(self._is_out_of_time()):
                break
        self.step.weights.check()
        return self.ranks.total(n_seen) / n_total

    def _keep(self, score: float, warm: bool) -> None:
        """Take a snapshot if the current state is the one to keep."""
        past = self.past
        if warm and (self.validate is None or score > past.best_score):
            past.best, past.best_score = self.step.weights.snapshot(), score
            self.run.best_epoch, past.validated = past.epoch, True
        elif not past.validated:
            # No candidate yet: after an interruption, the latest state is kept.
            past.best, self.run.best_epoch = self.step.weights.snapshot(), past.epoch

    def _judge(self, stop: bool) -> None:
        """Decide whether the run ends, or continues with a lower learning rate."""
        past, schedule = self.past, self.schedule
        if stop:
            self.run.status = "stopped"
        elif past.stale < schedule.patience:
            self.run.status = "finished" if past.epoch == schedule.max_epochs else "running"
        elif past.n_drops < schedule.max_drops and past.epoch < schedule.max_epochs:
            past.n_drops, past.stale = past.n_drops + 1, 0
            lower_rate(self.step.optimizer)
            self.step.weights.restore(past.best)
            self.step.average.average.copy_(past.best[0])
        else:
            self.run.status = "converged"

    def state(self) -> dict[str, Any]:
        """Everything that is needed to continue the run, for a checkpoint."""
        average = self.step.average
        return {
            "run": dict(vars(self.run)),
            "past": dict(vars(self.past)),
            "model": self.step.weights.snapshot(),
            "n_updates": average.n_updates,
            "average": average.average,
            "optimizer": optimizer_state(self.step.optimizer),
            "order": self.generator.get_state(),
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Continue from a `state`.

        Raises
        ------
        ArchiveError
            If it is not a state of this kind of run.
        """
        present = self.state()
        check_form(saved, present, "the state")
        for name in ("start", "best"):
            check_form(saved["past"][name], present["model"], f"the state {name!r}")
        for terms in saved["run"]["history"].values():
            check_form(terms, [0.0] * saved["past"]["epoch"], "the history")
        device = self.X.device
        self.run = Run(**{f.name: saved["run"][f.name] for f in fields(Run)})
        past = {f.name: saved["past"][f.name] for f in fields(Progress)}
        for name in ("start", "best"):
            past[name] = [tensor.to(device) for tensor in past[name]]
        self.past = Progress(**past)
        self.step.weights.restore(saved["model"])
        self.step.average.n_updates = saved["n_updates"]
        self.step.average.average.copy_(saved["average"])
        resume_optimizer(self.step.optimizer, saved["optimizer"])
        for _ in range(self.past.n_drops):
            lower_rate(self.step.optimizer)
        self.generator.set_state(saved["order"])


def minibatch_sizes(n_rows: int, n_total: int, batch_size: int) -> list[int]:
    """Rows per minibatch of a rank that has ``n_rows`` of the ``n_total`` rows of all ranks.

    All ranks have the same number of minibatches, and each minibatch contains about the same
    fraction of the rows of every rank.
    """
    ends = [min(start + batch_size, n_total) for start in range(0, n_total, batch_size)]
    own = [0, *(end * n_rows // n_total for end in ends)]
    return [end - start for start, end in pairwise(own)]


def minibatches(X: Tensor | Rows, order: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    """Rows in the given order, as tensors of the given sizes."""
    if isinstance(X, Tensor):
        return (X.index_select(0, rows) for rows in order.split(sizes))
    return X.minibatches(order, sizes)
