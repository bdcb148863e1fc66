"""The training loop: parameters and a loss, nothing about autoencoders.

The order of a step: rate, forward, backward, clip, step, log. No step waits for the device; what
is logged is summed there and read once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Loss = Callable[[Tensor, float], tuple[Tensor, dict[str, Tensor]]]
Record = Callable[[Callable[[], None]], Callable[[], None] | None]
Status = Literal["running", "finished", "converged", "stopped", "diverged", "interrupted"]

# A run that ends this many nats below its start, and more than twice as low, has diverged.
DIVERGENCE_NATS = 100.0

# What the learning rate is multiplied by when training no longer improves.
RATE_DROP = 0.2

# Libraries lay out their workspaces, optimizers and chains their state, in the first steps.
STEPS_BEFORE_RECORDING = 10


class Checkpoint(Protocol):
    """Where the state of a run is saved, and found again."""

    def load(self) -> dict[str, Any] | None:
        """Return the state saved last, if there is one."""

    def save(self, state: dict[str, Any], *, last: bool) -> None:
        """Save the state; it has to be the ``last`` one, others may be passed over."""


@dataclass
class Run:
    """What `minimize` did.

    Attributes
    ----------
    history : dict of str to list of float
        Mean of every named term, one entry an epoch; "validation" too where there is one.
    status : str
        "finished" all epochs, "converged" by early stopping, "stopped" by `on_epoch_end`,
        "diverged", or "interrupted" by the keyboard; "running" until then.
    best_epoch : int
        The epoch, from 1, whose parameters were kept; 0 if those at the start were.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    status: Status = "running"
    best_epoch: int = 0

    def append(self, record: dict[str, float]) -> None:
        for name, value in record.items():
            self.history.setdefault(name, []).append(value)


@dataclass
class Progress:
    """What a run knows between epochs, besides parameters, optimizer and average.

    Attributes
    ----------
    start, best : Tensor
        Parameters at the start, and those that would be kept if the run ended now; vectors.
    start_score : float
        By `check`.
    epoch : int
        Epochs behind.
    best_score, reference_score : float
        Of ``best``, and what a score has to exceed by ``tol`` not to be stale.
    stale : int
        Epochs in a row that did not.
    n_drops : int
        How often the learning rate has been lowered.
    validated : bool
        Whether ``best`` was chosen by a score.
    """

    start: Tensor
    best: Tensor
    start_score: float = -math.inf
    epoch: int = 0
    best_score: float = -math.inf
    reference_score: float = -math.inf
    stale: int = 0
    n_drops: int = 0
    validated: bool = False


class ParameterVector:
    """Parameters as views of one vector.

    What touches all of them at every step (norm, optimizer, average) is then a pass over one block
    of memory instead of a call for each.

    Parameters
    ----------
    parameters : sequence of Tensor
        Of one dtype, on one device. Their memory is replaced by a part of the vector's.

    Attributes
    ----------
    values : Tensor of shape (n,)
        Its ``grad`` is a buffer that `differentiate` writes.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.values = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        self.values.grad = torch.zeros_like(self.values)
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, self.values.split(sizes), strict=True):
            parameter.data = part.view_as(parameter)

    def check(self) -> None:
        """Raise if a parameter is no view any more, and so would not learn."""
        memory = self.values.untyped_storage().data_ptr()
        if any(p.untyped_storage().data_ptr() != memory for p in self.parameters):
            raise ValueError(
                "A network has replaced the memory of a parameter while training (by assigning to "
                "its .data, say), so that it cannot be trained. Change it in place, or compute "
                "with the changed tensor: F.linear(x, mask * self.weight)."
            )

    def differentiate(self, loss: Tensor) -> Tensor:
        """Write the gradient of a scalar, zero where it does not reach, and return it."""
        parts = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts], out=self.values.grad)


class WeightAverage:
    """Exponential moving average of parameters.

    Parameters
    ----------
    weights : ParameterVector
    decay : float in [0, 1)
        0 keeps no average. Early on the decay is smaller, so that the average is not held back by
        the initial values.
    """

    def __init__(self, weights: ParameterVector, decay: float) -> None:
        self.current = weights.values
        self.decay = decay
        self.n_updates = 0
        self.average = self.current.clone()
        self._share = self.current.new_empty(())

    def advance(self) -> None:
        """Count an update, and with it how much the current values will weigh."""
        self.n_updates += 1
        self._share.fill_(1 - min(self.decay, self.n_updates / (self.n_updates + 10)))

    def update(self) -> None:
        """Move the average towards the current values."""
        self.average.lerp_(self.current, self._share)

    @contextmanager
    def applied(self):
        """Hold the averages in the parameters while the context lasts."""
        current = self.current.clone()
        self.current.copy_(self.average)
        try:
            yield
        finally:
            self.current.copy_(current)


def make_optimizer(weights: ParameterVector, learning_rate: float) -> torch.optim.Optimizer:
    """Adam, fused into one kernel."""
    # A tensor, which steps that are replayed read anew.
    rate = torch.tensor(learning_rate, dtype=torch.float32, device=weights.values.device)
    return torch.optim.Adam([weights.values], lr=rate, fused=True)


def lower_rate(optimizer: torch.optim.Optimizer) -> None:
    """Multiply the learning rate by `RATE_DROP`, in place where it is a tensor."""
    for group in optimizer.param_groups:
        group["lr"] *= RATE_DROP


@contextmanager
def recordable(optimizer: torch.optim.Optimizer):
    """Tell torch, which asks for it, that the optimizer's steps are being recorded."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


class Step:
    """One step by a minibatch: forward, backward, clip, step, average, log.

    Nothing in it waits for the device.

    Parameters
    ----------
    loss, weights, optimizer, max_norm
        As for `minimize`.
    average : WeightAverage
    """

    def __init__(
        self,
        loss: Loss,
        weights: ParameterVector,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage,
        max_norm: float,
    ) -> None:
        self.loss = loss
        self.weights = weights
        self.optimizer = optimizer
        self.average = average
        self.max_norm = max_norm
        self._names: list[str] = []
        self._sums = weights.values.new_empty(0)

    def __call__(self, x: Tensor, progress: float, share: float) -> None:
        """Step by rows ``x``, a ``share`` of all, ``progress`` of the way."""
        self.average.advance()
        self.update(x, progress, share)

    def update(self, x: Tensor, progress: float, share: float) -> None:
        """Do all of a step that depends on no number but ``progress`` and ``share``."""
        value, terms = self.loss(x, progress)
        gradient = self.weights.differentiate(value)
        if self.max_norm < math.inf:
            gradient *= (self.max_norm / torch.linalg.vector_norm(gradient)).clamp(max=1.0)
        self.optimizer.step()
        self.average.update()
        if not self._names:
            self._names = list(terms)
            self._sums = self._sums.new_zeros(len(terms))
        self._sums += torch.stack(list(terms.values())) * share

    def take_log(self) -> dict[str, float]:
        """Read the means of all terms since the last time."""
        record = dict(zip(self._names, self._sums.tolist(), strict=True))
        self._sums.zero_()
        return record


class RecordedStep:
    """A step whose kernels are recorded once, and launched together from then on.

    What is recorded does the same to the same memory each time. So it serves minibatches of one
    size, once the loss depends on ``progress`` no more; all else is left to the step itself, and so
    are the first few, in which memory is laid out.

    Parameters
    ----------
    step : Step
    record : callable (function) -> (callable () or None)
        Records what a function does without doing it, and returns what does it; or None if it
        cannot be recorded.
    batch_size : int
    settled : float
        The ``progress`` from which on the loss does not depend on it.
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


def minimize(
    loss: Loss,
    weights: ParameterVector,
    X: Tensor,
    *,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    max_epochs: int,
    max_norm: float = math.inf,
    averaging: float = 0.0,
    validate: Callable[[], float] | None = None,
    grace: float = 0.0,
    patience: int = 10,
    tol: float = 0.0,
    max_drops: int = 0,
    check: Callable[[], float] | None = None,
    on_epoch_begin: Callable[[], None] = lambda: None,
    on_epoch_end: Callable[[int, dict[str, float]], bool] = lambda epoch, record: False,
    checkpoint: Checkpoint | None = None,
    record: Record | None = None,
) -> Run:
    """Minimise a loss over minibatches of X; the parameters end at the best state seen.

    Parameters
    ----------
    loss : callable (x, progress) -> (loss, terms)
        ``progress`` goes from 0 to 1 over all epochs; ``terms`` are detached scalars to log.
    weights : ParameterVector
        Of what the loss depends on.
    X : Tensor of shape (n, ...)
        On the device; batches are taken by index.
    generator : torch.Generator
        Of the order of the rows, on the device of X.
    optimizer : torch.optim.Optimizer
        Of ``weights.values``.
    batch_size, max_epochs : int
    max_norm : float
        Gradients of larger norm are scaled down to it.
    averaging : float in [0, 1)
        Decay of the moving average that is validated, kept and returned; 0 for none.
    validate : callable () -> float, optional
        Score of the current parameters, greater is better. With it, the epoch of the best score
        is kept and training stops when the score does not rise; without it, the last is kept.
    grace : float in [0, 1]
        Part of the epochs before any is a candidate (the loss is still being warmed up).
    patience : int
        Epochs in a row without a rise of more than ``tol`` after which training stops.
    tol : float
    max_drops : int
        How often training goes on from the best state with a `RATE_DROP` of the learning rate
        instead of stopping.
    check : callable () -> float, optional
        Score of the current parameters by which divergence is judged: if the state that would be
        kept is far below the one at the start, finite as it may be, the latter is put back.
    on_epoch_begin : callable ()
    on_epoch_end : callable (epoch, record) -> bool
        Called with the average in the parameters; True stops.
    checkpoint : object with ``load() -> dict or None`` and ``save(state, last)``, optional
        Where the state is saved after each epoch (``last`` once the run is over), and taken up
        again: a run that was cut off goes on as if it had not been.
    record : callable, optional
        Of `RecordedStep`. With it, ``progress`` may not matter to the loss once ``grace`` is over.

    Returns
    -------
    Run
    """
    run = Run()
    average = WeightAverage(weights, averaging)
    step = Step(loss, weights, optimizer, average, max_norm)
    take = step if record is None else RecordedStep(step, record, batch_size, grace)
    at_start = weights.values.clone()
    past = Progress(start=at_start, best=at_start)
    n_batches = math.ceil(X.shape[0] / batch_size)

    try:
        saved = None if checkpoint is None else checkpoint.load()
        if saved is not None:
            run, past = saved["run"], saved["past"]
            weights.values.copy_(saved["parameters"])
            average.n_updates, values = saved["average"]
            average.average.copy_(values)
            # The groups, with a rate where replayed steps find it, are those of the new optimizer.
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({**saved["optimizer"], "param_groups": groups})
            for _ in range(past.n_drops):
                lower_rate(optimizer)
            generator.set_state(saved["order"])
        elif check is not None:
            past.start_score = check()

        while run.status == "running":
            past.epoch += 1
            on_epoch_begin()
            order = torch.randperm(X.shape[0], generator=generator, device=X.device)
            for index, rows in enumerate(order.split(batch_size)):
                progress = (past.epoch - 1 + index / n_batches) / max_epochs
                take(X.index_select(0, rows), progress, rows.numel() / X.shape[0])

            weights.check()
            means = step.take_log()
            finite = all(math.isfinite(term) for term in means.values())
            # A gradient can break the parameters after the last term of the epoch was known.
            finite = finite and bool(weights.values.isfinite().all())
            with average.applied():
                if finite and validate is not None:
                    means["validation"] = validate()
                    finite = math.isfinite(means["validation"])
                if not finite:
                    run.history = run.history or {name: [] for name in means}
                    run.status = "diverged"
                    break
                run.append(means)
                warm = past.epoch > grace * max_epochs or past.epoch == max_epochs
                score = means.get("validation", past.best_score)
                if warm and (validate is None or score > past.best_score):
                    past.best, past.best_score = weights.values.clone(), score
                    run.best_epoch, past.validated = past.epoch, True
                elif not past.validated:
                    # No candidate yet: an interruption keeps the latest.
                    past.best, run.best_epoch = weights.values.clone(), past.epoch
                stop = on_epoch_end(past.epoch, means)
            if validate is not None and warm:
                past.stale = 0 if score > past.reference_score + tol else past.stale + 1
                past.reference_score = max(score, past.reference_score)
            if stop:
                run.status = "stopped"
            elif past.stale >= patience and past.n_drops < max_drops and past.epoch < max_epochs:
                past.n_drops, past.stale = past.n_drops + 1, 0
                lower_rate(optimizer)
                for values in (weights.values, average.average):
                    values.copy_(past.best)
            elif past.stale >= patience:
                run.status = "converged"
            elif past.epoch == max_epochs:
                run.status = "finished"
            if checkpoint is not None:
                state = {
                    "run": run,
                    "past": past,
                    "parameters": weights.values.clone(),
                    "average": (average.n_updates, average.average),
                    "optimizer": optimizer.state_dict(),
                    "order": generator.get_state(),
                }
                checkpoint.save(state, last=run.status != "running")
    except KeyboardInterrupt:
        run.status = "interrupted"
    weights.values.copy_(past.best)
    if check is not None:
        end_score = check()
        floor = past.start_score - DIVERGENCE_NATS - abs(past.start_score)
        # A score that is nan has fallen too, unless it was from the start.
        if end_score < floor or math.isnan(end_score) > math.isnan(past.start_score):
            run.status, run.best_epoch = "diverged", 0
            weights.values.copy_(past.start)
    return run
