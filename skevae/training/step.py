"""One training step, and steps recorded as a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skevae.training.parameters import ParameterVector, WeightAverage, recordable
from skevae.utils.ranks import ALONE, N_NOTES, Ranks

Loss = Callable[[Tensor, float], tuple[Tensor, dict[str, Tensor]]]


Record = Callable[[Callable[[], None]], Callable[[], None] | None]


# Libraries lay out their workspaces, optimizers and chains their state, in the first steps.
STEPS_BEFORE_RECORDING = 10


class Step:
    """One step by a minibatch: forward, backward, clip, step, average, log.

    Nothing in it waits for the device.

    Parameters
    ----------
    loss, weights, optimizer, max_norm
        What is minimised, its parameters, their optimizer, and the largest norm of a gradient:
        longer ones are scaled down to it.
    average : WeightAverage
    ranks : Ranks, optional
        Among which the rows of each minibatch are divided. Several wait for each other, and for
        their devices.
    """

    def __init__(
        self,
        loss: Loss,
        weights: ParameterVector,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage,
        max_norm: float,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self.loss = loss
        self.weights = weights
        self.optimizer = optimizer
        self.average = average
        self.max_norm = max_norm
        self.ranks = ranks
        self._names: list[str] = []
        self._sums = weights.values.new_empty(0)

    def __call__(self, x: Tensor, progress: float, share: float) -> None:
        """Step by rows ``x``, a ``share`` of all, ``progress`` of the way."""
        self.average.advance()
        self.update(x, progress, share)

    def update(self, x: Tensor, progress: float, share: float) -> None:
        """Do all of a step that depends on no number but ``progress`` and ``share``."""
        gradient, terms = self._differentiate(x, progress)
        self.ranks.combine(self.weights.message, x.shape[0])
        if self.max_norm < math.inf:
            gradient *= (self.max_norm / torch.linalg.vector_norm(gradient)).clamp(max=1.0)
        self.optimizer.step()
        self.average.update()
        if not terms:
            return
        if not self._names:
            self._names = list(terms)
            self._sums = self._sums.new_zeros(len(terms))
        self._sums += torch.stack(list(terms.values())) * share

    def _differentiate(self, x: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if x.shape[0]:
            value, terms = self.loss(x, progress)
            return self.weights.differentiate(value), terms
        # No row of this minibatch is this rank's.
        return self.weights.message[:-N_NOTES].zero_(), {}

    def take_log(self) -> dict[str, float]:
        """Read the means of all terms since the last time."""
        record = dict(zip(self._names, self._sums.tolist(), strict=True))
        self._sums.zero_()
        return record


class RecordedStep:
    """A step whose kernels are recorded once, and launched together from then on.

    A recording does the same to the same memory each time. So it serves minibatches of one size,
    once the loss no longer depends on ``progress``. The step itself takes all others, and the first
    few, in which memory is laid out.

    Parameters
    ----------
    step : Step
    record : callable (function) -> (callable () or None)
        Records what a function does without doing it, and returns what does it; or None if it
        cannot be recorded.
    batch_size : int
    settled : float
        The ``progress`` from which the loss no longer depends on it.
    """

    def __init__(self, step: Step, record: Record, batch_size: int, settled: float) -> None:
        self.step = step
        self.record: Record | None = record
        self.batch_size = batch_size
        self.settled = settled
        self.n_before = STEPS_BEFORE_RECORDING
        self._replay: Callable[[], None] | None = None
        self._x: Tensor  # the minibatch that a replay reads

    def __call__(self, x: Tensor, progress: float, share: float) -> None:
        if self.record is None or x.shape[0] != self.batch_size or progress < self.settled:
            self.step(x, progress, share)
        elif self.n_before:
            self.n_before -= 1
            self.step(x, progress, share)
        elif self._replay is None:
            self._x = x.clone()
            with recordable(self.step.optimizer):
                self._replay = self.record(lambda: self.step.update(self._x, 1.0, share))
            if self._replay is None:
                self.record = None
            self(x, progress, share)
        else:
            self._x.copy_(x)
            self.step.average.advance()
            self._replay()
