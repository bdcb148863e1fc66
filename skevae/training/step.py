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


# In the first steps, libraries allocate workspaces, and optimizers and chains their states.
STEPS_BEFORE_RECORDING = 10


class Step:
    """One step with a minibatch: forward, backward, clip, step, average, log.

    It never waits for the device.

    Parameters
    ----------
    loss, weights, optimizer, max_norm
        The loss to minimise, its parameters, their optimizer, and the maximum norm of a gradient:
        larger gradients are scaled down to it.
    average : WeightAverage
    ranks : Ranks, optional
        Ranks among which the rows of each minibatch are divided. Several ranks wait for each other,
        and for their devices.
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
        """Step with rows ``x``, a ``share`` of all rows, at ``progress`` of training."""
        self.average.advance()
        self.update(x, progress, share)

    def update(self, x: Tensor, progress: float, share: float) -> None:
        """Make the part of a step that depends on no numbers except ``progress`` and ``share``."""
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
        # This rank has no rows in this minibatch.
        return self.weights.message[:-N_NOTES].zero_(), {}

    def take_log(self) -> dict[str, float]:
        """Read the means of all terms since the last time."""
        record = dict(zip(self._names, self._sums.tolist(), strict=True))
        self._sums.zero_()
        return record


class RecordedStep:
    """A step whose kernels are recorded once, and then launched together.

    A recording always makes the same operations on the same memory. It can therefore be used for
    minibatches of one size, when the loss no longer depends on ``progress``. The ordinary step is
    used for all other minibatches, and for the first few, in which memory is allocated.

    Parameters
    ----------
    step : Step
    record : callable (function) -> (callable () or None)
        Records a function without executing it, and returns a callable that executes it; or None if
        it cannot be recorded.
    batch_size : int
    settled : float
        The value of ``progress`` after which the loss no longer depends on it.
    """

    def __init__(self, step: Step, record: Record, batch_size: int, settled: float) -> None:
        self.step = step
        self.record: Record | None = record
        self.batch_size = batch_size
        self.settled = settled
        self.n_before = STEPS_BEFORE_RECORDING
        self._replay: Callable[[], None] | None = None
        self._x: Tensor  # the minibatch read by a replay

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
