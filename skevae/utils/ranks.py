"""The processes that train one model together, as the fit in each of them sees them.

Everything that is a sum over rows, or a decision, is taken over ranks. A process by itself is the
only one of its kind, and all of that is then what it was.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from skevae.utils.random import spawn

T = TypeVar("T")

# Entries behind a gradient that travel with it: rows, wishes to stop, interruptions.
N_NOTES = 3

# Errors of one rank that are raised as the same on the others.
SHARED_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, ImportError, OSError)
}


class LostRanksError(RuntimeError):
    """Another rank has ended, or did not answer in time."""


class Shard(NamedTuple):
    """The rows of this rank, among those of all ranks in the order of ranks."""

    start: int
    stop: int
    total: int


class Ranks:
    """A process by itself.

    Attributes
    ----------
    rank, size : int
        Which process this is, from 0, and of how many.
    """

    rank: int = 0
    size: int = 1

    # --- what several processes do otherwise ----------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """Values of all ranks, in their order."""
        return [value]

    def first(self, make: Callable[[], T]) -> T:
        """Return what rank 0 makes, which alone makes it."""
        return make()

    def combine(self, message: Tensor, n_rows: int) -> None:
        """Turn a gradient of ``n_rows`` rows into that of the rows of all ranks, in place.

        Parameters
        ----------
        message : Tensor of shape (n + `N_NOTES`,)
            The gradient of a mean over rows, and room for what travels with it.
        n_rows : int
        """

    def stops(self, wish: bool) -> bool:
        """Whether a rank wished to stop when gradients were last combined, or wishes it alone."""
        return wish

    def equalise(self, tensors: Sequence[Tensor], *, average: bool = False) -> None:
        """Give all ranks the tensors of rank 0, or the average of floats, in place."""

    def seed(self, seed: int) -> int:
        """Derive a seed of this rank's own."""
        return seed

    def working(self) -> AbstractContextManager[None]:
        """Tell the other ranks if the context ends in an error, so that none waits for ever."""
        return nullcontext()

    def interruptible(self) -> AbstractContextManager[None]:
        """Raise KeyboardInterrupt only where all ranks do, while the context lasts."""
        return nullcontext()

    # --- what follows from it -------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank."""
        return any(self.gather(bool(flag)))

    def total(self, value: Any) -> Any:
        """Sum of numbers or arrays."""
        values = self.gather(value)
        return sum(values[1:], start=values[0])

    def average(self, value: float, weight: float) -> float:
        """Average of numbers by weights that are not all 0."""
        parts = self.gather((value, weight))
        if len(parts) == 1:
            return value
        whole = sum(weight for _, weight in parts)
        return sum(value * weight for value, weight in parts if weight) / whole

    def moments(
        self, mean: np.ndarray, variance: np.ndarray, count: np.ndarray | float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
        """Mean, variance and count of columns, from those of each rank (Chan et al. 1979)."""
        parts = self.gather((mean, variance, count))
        if len(parts) == 1:
            return parts[0]
        means, variances = (np.array([part[k] for part in parts]) for k in (0, 1))
        counts = np.array([np.broadcast_to(part[2], mean.shape) for part in parts], dtype=float)
        # A column without values on a rank has moments that are nan there.
        means, variances = np.where(counts > 0, (means, variances), 0.0)
        whole = np.maximum(counts.sum(0), np.finfo(float).tiny)
        centre = (counts * means).sum(0) / whole
        spread = (counts * (variances + (means - centre) ** 2)).sum(0) / whole
        return centre, spread, counts.sum(0)

    def shard(self, n_rows: int) -> Shard:
        """Place this rank's rows among those of all."""
        counts = self.gather(n_rows)
        start = sum(counts[: self.rank])
        return Shard(start, start + n_rows, sum(counts))

    def share(self, n: int) -> int:
        """So many of ``n`` things for each rank, at least 1."""
        return -(-n // self.size)

    def agree(self, what: str, value: Any) -> None:
        """Raise on all ranks if they do not have the same.

        Raises
        ------
        ValueError
        """
        values = self.gather(value)
        for rank, other in enumerate(values):
            if other != values[0]:
                raise ValueError(
                    f"Ranks differ in {what}: rank 0 has {values[0]!r}, rank {rank} has {other!r}. "
                    "Give all ranks the same model, and shards of one table."
                )


ALONE = Ranks()

_PRESENT: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


def current_ranks() -> Ranks:
    """Ranks that a fit begun here has to be shared by."""
    return _PRESENT.get()


@contextmanager
def among(ranks: Ranks) -> Iterator[None]:
    """Share the fits that begin in the context."""
    token = _PRESENT.set(ranks)
    try:
        yield
    finally:
        _PRESENT.reset(token)


class ProcessRanks(Ranks):
    """Several processes, joined by a group of torch.distributed.

    Parameters
    ----------
    objects : ProcessGroup
        By gloo, for what lives in the memory of the host.
    on_device : ProcessGroup, optional
        By nccl, for what lives on a GPU.
    """

    def __init__(self, objects: dist.ProcessGroup, on_device: dist.ProcessGroup | None) -> None:
        self.groups = [objects] if on_device is None else [objects, on_device]
        self.rank, self.size = objects.rank(), objects.size()
        self._source = dist.get_global_rank(objects, 0)
        self._key = f"skevae/{objects.group_name}/failure"
        self._left = False
        self._wish = self._granted = self._interrupted = False

    def _group(self, tensor: Tensor) -> dist.ProcessGroup:
        return self.groups[-1] if tensor.is_cuda else self.groups[0]

    @contextmanager
    def _together(self, doing: str) -> Iterator[None]:
        if self._left:
            raise LostRanksError(
                f"Rank {self.rank} has lost the others before. Leave the `data_parallel` context "
                "on all ranks, and enter a new one."
            )
        try:
            yield
        except (RuntimeError, EOFError) as error:
            raise self._explained(doing, error) from error

    def _explained(self, doing: str, error: Exception) -> Exception:
        with suppress(RuntimeError, ValueError):
            store = _store()
            if store.check([self._key]):
                rank, kind, message = json.loads(store.get(self._key))
                text = f"Rank {rank} has failed: {message}"
                if kind in SHARED_ERRORS:
                    return SHARED_ERRORS[kind](text)
                return LostRanksError(f"{text} ({kind})")
        return LostRanksError(
            f"Rank {self.rank} of {self.size} lost the others while {doing} ({error}). One of them "
            "has ended or did not answer in time: look at its output, then start all ranks again. "
            "With checkpoint_dir, `fit` goes on from the epoch that was saved last, with any "
            "number of ranks."
        )

    def gather(self, value: T) -> list[T]:
        parts: list[Any] = [None] * self.size
        with self._together("gathering values"):
            dist.all_gather_object(parts, (value, self._interrupted), group=self.groups[0])
        self._raise_if(any(interrupted for _, interrupted in parts))
        return [value for value, _ in parts]

    def first(self, make: Callable[[], T]) -> T:
        with among(ALONE):
            box = [make() if self.rank == 0 else None]
        with self._together("waiting for rank 0"):
            dist.broadcast_object_list(box, src=self._source, group=self.groups[0])
        return box[0]  # type: ignore[return-value]

    def combine(self, message: Tensor, n_rows: int) -> None:
        gradient, notes = message[:-N_NOTES], message[-N_NOTES:]
        gradient *= n_rows
        notes.copy_(torch.tensor([n_rows, self._wish, self._interrupted], dtype=message.dtype))
        with self._together("summing gradients"):
            dist.all_reduce(message, group=self._group(message))
        gradient /= notes[0]
        _, wishes, interruptions = notes.tolist()
        self._granted = wishes > 0
        self._raise_if(interruptions > 0)

    def stops(self, wish: bool) -> bool:
        self._wish = wish
        return self._granted

    @torch.no_grad()
    def equalise(self, tensors: Sequence[Tensor], *, average: bool = False) -> None:
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            own = torch.cat([tensor.flatten() for tensor in alike])
            common = own.clone()
            group = self._group(common)
            with self._together("sharing parameters"):
                dist.broadcast(common, src=self._source, group=group)
                if average and dtype.is_floating_point:
                    # Of what differs, so that what is equal stays as it is, to the bit.
                    difference = own - common
                    dist.all_reduce(difference, group=group)
                    common += difference / self.size
            for tensor, part in zip(alike, common.split([t.numel() for t in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def seed(self, seed: int) -> int:
        return spawn(seed, self.size)[self.rank]

    @contextmanager
    def working(self) -> Iterator[None]:
        self._wish = self._granted = False
        try:
            # What a fit calls in its turn, such as callbacks, is this rank's own business.
            with among(ALONE):
                yield
        except BaseException as error:
            self.leave(error)
            raise

    def leave(self, error: BaseException | None = None) -> None:
        """Give up the group, and tell the others why if there is an error."""
        if self._left:
            return
        self._left = True
        if error is not None and not isinstance(error, LostRanksError):
            names = [kind.__name__ for kind in type(error).__mro__]
            kind = next((name for name in names if name in SHARED_ERRORS), names[0])
            with suppress(RuntimeError, ValueError):
                _store().set(self._key, json.dumps([self.rank, kind, str(error)]))
        for group in self.groups[::-1]:
            # Their sockets close, at which all others wake up.
            with suppress(RuntimeError, ValueError, AssertionError):
                dist.destroy_process_group(group)
        self.groups = []

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: Any) -> None:
            if self._interrupted:
                # The others do not answer: go without them.
                self._interrupted = False
                self.leave(KeyboardInterrupt())
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            if self._interrupted:  # since the ranks last heard of each other
                self._interrupted = False
                signal.raise_signal(signal.SIGINT)

    def _raise_if(self, interrupted: bool) -> None:
        if interrupted:
            self._interrupted = False
            raise KeyboardInterrupt


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
