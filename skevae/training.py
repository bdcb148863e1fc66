"""The training loop: parameters and a loss, nothing about autoencoders.

The order of a step: rate, forward, backward, clip, step, log. No step waits for the device; what
is logged is summed there and read once an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Loss = Callable[[Tensor, float], tuple[Tensor, dict[str, Tensor]]]
Status = Literal["finished", "converged", "stopped", "diverged", "interrupted"]

# A run that ends this many nats below its start, and more than twice as low, has diverged.
DIVERGENCE_NATS = 100.0


@dataclass
class Run:
    """What `minimize` did.

    Attributes
    ----------
    history : dict of str to list of float
        Mean of every named term, one entry an epoch; "validation" too where there is one.
    status : str
        "finished" all epochs, "converged" by early stopping, "stopped" by `on_epoch_end`,
        "diverged", or "interrupted" by the keyboard.
    best_epoch : int
        The epoch, from 1, whose parameters were kept; 0 if those at the start were.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    status: Status = "finished"
    best_epoch: int = 0

    def append(self, record: dict[str, float]) -> None:
        for name, value in record.items():
            self.history.setdefault(name, []).append(value)


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

    Returns
    -------
    Run
    """
    run = Run()
    average = WeightAverage(parameters, averaging)
    best = start = snapshot(parameters)
    n_batches = math.ceil(X.shape[0] / batch_size)
    best_score = reference_score = -math.inf
    validated, stale = False, 0
    start_score = -math.inf

    try:
        start_score = check() if check is not None else start_score
        for epoch in range(1, max_epochs + 1):
            on_epoch_begin()
            order = torch.randperm(X.shape[0], generator=generator, device=X.device)
            sums: dict[str, Tensor] = {}
            for index, rows in enumerate(order.split(batch_size)):
                progress = (epoch - 1 + index / n_batches) / max_epochs
                value, terms = loss(X[rows], progress)
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
                warm = epoch > grace * max_epochs or epoch == max_epochs
                score = record.get("validation", best_score)
                if warm and (validate is None or score > best_score):
                    best, best_score, run.best_epoch = snapshot(parameters), score, epoch
                    validated = True
                elif not validated:
                    # No candidate yet: an interruption keeps the latest.
                    best, run.best_epoch = snapshot(parameters), epoch
                stop = on_epoch_end(epoch, record)
            if stop:
                run.status = "stopped"
                break
            if validate is not None and warm:
                stale = 0 if score > reference_score + tol else stale + 1
                reference_score = max(score, reference_score)
                if stale >= patience:
                    run.status = "converged"
                    break
    except KeyboardInterrupt:
        run.status = "interrupted"
    restore(parameters, best)
    if check is not None:
        end_score = check()
        floor = start_score - DIVERGENCE_NATS - abs(start_score)
        # A score that is nan has fallen too, unless it was from the start.
        if end_score < floor or math.isnan(end_score) > math.isnan(start_score):
            run.status, run.best_epoch = "diverged", 0
            restore(parameters, start)
    return run
