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
    start, best : list of Tensor
        Parameters at the start, and those that would be kept if the run ended now.
    start_score : float
        By `check`.
    epoch : int
        Epochs behind.
    best_score, reference_score : float
        Of ``best``, and what a score has to exceed by ``tol`` not to be stale.
    stale : int
        Epochs in a row that did not.
    validated : bool
        Whether ``best`` was chosen by a score.
    """

    start: list[Tensor]
    best: list[Tensor]
    start_score: float = -math.inf
    epoch: int = 0
    best_score: float = -math.inf
    reference_score: float = -math.inf
    stale: int = 0
    validated: bool = False


class WeightAverage:
    """Exponential moving average of parameters.

    Parameters
    ----------
    parameters : sequence of Tensor
    decay : float in [0, 1)
        0 keeps no average. Early on the decay is smaller, so that the average is not held back by
        the initial values.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.n_updates = 0
        self.average = snapshot(self.parameters)

    @torch.no_grad()
    def update(self) -> None:
        self.n_updates += 1
        decay = min(self.decay, self.n_updates / (self.n_updates + 10))
        torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    @contextmanager
    def applied(self):
        """Hold the averages in the parameters while the context lasts."""
        current = snapshot(self.parameters)
        restore(self.parameters, self.average)
        try:
            yield
        finally:
            restore(self.parameters, current)


@torch.no_grad()
def snapshot(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Copy parameters."""
    return [parameter.detach().clone() for parameter in parameters]


@torch.no_grad()
def restore(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write ``values`` back into ``parameters``."""
    torch._foreach_copy_(list(parameters), list(values))


def make_optimizer(parameters: Sequence[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """Adam, fused into one kernel for all parameters."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True)


def minimize(
    loss: Loss,
    parameters: Sequence[Tensor],
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
    check: Callable[[], float] | None = None,
    on_epoch_begin: Callable[[], None] = lambda: None,
    on_epoch_end: Callable[[int, dict[str, float]], bool] = lambda epoch, record: False,
    checkpoint: Checkpoint | None = None,
) -> Run:
    """Minimise a loss over minibatches of X; the parameters end at the best state seen.

    Parameters
    ----------
    loss : callable (x, progress) -> (loss, terms)
        ``progress`` goes from 0 to 1 over all epochs; ``terms`` are detached scalars to log.
    parameters : sequence of Tensor
    X : Tensor of shape (n, ...)
        On the device; batches are taken by index.
    generator : torch.Generator
        Of the order of the rows, on the device of X.
    optimizer : torch.optim.Optimizer
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
    check : callable () -> float, optional
        Score of the current parameters by which divergence is judged: if the state that would be
        kept is far below the one at the start, finite as it may be, the latter is put back.
    on_epoch_begin : callable ()
    on_epoch_end : callable (epoch, record) -> bool
        Called with the average in the parameters; True stops.
    checkpoint : object with ``load() -> dict or None`` and ``save(state, last)``, optional
        Where the state is saved after each epoch (``last`` once the run is over), and taken up
        again: a run that was cut off goes on as if it had not been.

    Returns
    -------
    Run
    """
    run = Run()
    average = WeightAverage(parameters, averaging)
    at_start = snapshot(parameters)
    past = Progress(start=at_start, best=at_start)
    n_batches = math.ceil(X.shape[0] / batch_size)

    try:
        saved = None if checkpoint is None else checkpoint.load()
        if saved is not None:
            run, past = saved["run"], saved["past"]
            restore(parameters, saved["parameters"])
            average.n_updates, values = saved["average"]
            restore(average.average, values)
            optimizer.load_state_dict(saved["optimizer"])
            generator.set_state(saved["order"])
        elif check is not None:
            past.start_score = check()

        while run.status == "running":
            past.epoch += 1
            on_epoch_begin()
            order = torch.randperm(X.shape[0], generator=generator, device=X.device)
            sums: dict[str, Tensor] = {}
            for index, rows in enumerate(order.split(batch_size)):
                progress = (past.epoch - 1 + index / n_batches) / max_epochs
                value, terms = loss(X.index_select(0, rows), progress)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                if max_norm < math.inf:
                    torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
                optimizer.step()
                average.update()
                share = rows.numel() / X.shape[0]
                for name, term in terms.items():
                    sums[name] = term * share + sums[name] if name in sums else term * share

            record = dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))
            finite = all(math.isfinite(term) for term in record.values())
            # A gradient can break the parameters after the last term of the epoch was known.
            finite = finite and bool(torch.stack([p.isfinite().all() for p in parameters]).all())
            with average.applied():
                if finite and validate is not None:
                    record["validation"] = validate()
                    finite = math.isfinite(record["validation"])
                if not finite:
                    run.history = run.history or {name: [] for name in record}
                    run.status = "diverged"
                    break
                run.append(record)
                warm = past.epoch > grace * max_epochs or past.epoch == max_epochs
                score = record.get("validation", past.best_score)
                if warm and (validate is None or score > past.best_score):
                    past.best, past.best_score = snapshot(parameters), score
                    run.best_epoch, past.validated = past.epoch, True
                elif not past.validated:
                    # No candidate yet: an interruption keeps the latest.
                    past.best, run.best_epoch = snapshot(parameters), past.epoch
                stop = on_epoch_end(past.epoch, record)
            if validate is not None and warm:
                past.stale = 0 if score > past.reference_score + tol else past.stale + 1
                past.reference_score = max(score, past.reference_score)
            if stop:
                run.status = "stopped"
            elif past.stale >= patience:
                run.status = "converged"
            elif past.epoch == max_epochs:
                run.status = "finished"
            if checkpoint is not None:
                state = {
                    "run": run,
                    "past": past,
                    "parameters": snapshot(parameters),
                    "average": (average.n_updates, average.average),
                    "optimizer": optimizer.state_dict(),
                    "order": generator.get_state(),
                }
                checkpoint.save(state, last=run.status != "running")
    except KeyboardInterrupt:
        run.status = "interrupted"
    restore(parameters, past.best)
    if check is not None:
        end_score = check()
        floor = past.start_score - DIVERGENCE_NATS - abs(past.start_score)
        # A score that is nan has fallen too, unless it was from the start.
        if end_score < floor or math.isnan(end_score) > math.isnan(past.start_score):
            run.status, run.best_epoch = "diverged", 0
            restore(parameters, past.start)
    return run
