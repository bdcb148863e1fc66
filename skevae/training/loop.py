"""The training loop: parameters and a loss, nothing about autoencoders.

The order of a step: rate, forward, backward, clip, step, log. No step waits for the device; what
is logged is summed there and read once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from skevae.training.parameters import ParameterVector, WeightAverage, lower_rate
from skevae.training.step import Loss, Record, RecordedStep, Step

Status = Literal["running", "finished", "converged", "stopped", "diverged", "interrupted"]


# A run that ends this many nats below its start, and more than twice as low, has diverged.
DIVERGENCE_NATS = 100.0


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
