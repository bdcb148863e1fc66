"""The processes that train one model together, from the view of the fit in each process.

Sums over rows and decisions are made over all ranks. For a single process, these operations do
nothing.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from skevae.utils.moments import Moments, pooled_moments
from skevae.utils.random import spawn

T = TypeVar("T")

# Entries that are sent after the gradient: numbers of rows, requests to stop, interruptions.
N_NOTES = 3

# Errors of one rank that are raised with the same type on the others.
SHARED_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, ImportError, OSError)
}


class LostRanksError(RuntimeError):
    """Another rank has ended, or did not answer in time."""


class Shard(NamedTuple):
    """The position of the rows of this rank among those of all ranks, in the order of ranks."""

    start: int
    stop: int
    total: int


class Ranks:
    """A single process.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and the number of processes.
    """

    rank: int = 0
    size: int = 1

    # --- overridden for several processes -------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """Values of all ranks, in the order of ranks."""
        return [value]

    def first(self, make: Callable[[], T]) -> T:
        """Return the result of ``make``, which is only called on rank 0."""
        return make()

    def combine(self, message: Tensor, n_rows: int) -> None:
        """Turn the gradient for ``n_rows`` rows into that for the rows of all ranks, in place.

        Parameters
        ----------
        message : Tensor of shape (n + `N_NOTES`,)
            The gradient of a mean over rows, and space for the entries that are sent with it.
        n_rows : int
        """

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, in place."""

    def stops(self, wish: bool) -> bool:
        """Whether any rank requested a stop when gradients were last combined."""
        return wish

    def equalise(self, tensors: Sequence[Tensor], *, average: bool = False) -> None:
        """Set tensors on all ranks to those of rank 0, or floats to their average, in place."""

    def seed(self, seed: int) -> int:
        """Derive a separate seed for this rank."""
        return seed

    def working(self) -> AbstractContextManager[None]:
        """Notify the other ranks if the context ends with an error, so that none waits forever."""
        return nullcontext()

    def interruptible(self) -> AbstractContextManager[None]:
        """Within the context, raise KeyboardInterrupt only at points where all ranks raise it."""
        return nullcontext()

    # --- derived from these ---------------------------------------------------------------------

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank."""
        return any(self.gather(bool(flag)))

    def total(self, value: Any) -> Any:
        """Sum of numbers or arrays."""
        values = self.gather(value)
        return sum(values[1:], start=values[0])

    def average(self, value: float, weight: float) -> float:
        """Weighted average of numbers; not all weights may be 0."""
        parts = self.gather((value, weight))
        if len(parts) == 1:
            return value
        whole = sum(weight for _, weight in parts)
        return sum(value * weight for value, weight in parts if weight) / whole

    def moments(self, of_rank: Moments) -> Moments:
        """Mean, variance and count of columns, from those of each rank."""
        return pooled_moments(self.gather(of_rank))

    def shard(self, n_rows: int) -> Shard:
        """Return the position of the rows of this rank among those of all ranks."""
        counts = self.gather(n_rows)
        start = sum(counts[: self.rank])
        return Shard(start, start + n_rows, sum(counts))

    def part(self, n: int) -> slice:
        """Part of this rank of ``n`` items that are divided evenly."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def share(self, n: int) -> int:
        """Number of items per rank out of ``n``, at least 1."""
        return -(-n // self.size)

    def agree(self, what: str, value: Any) -> None:
        """Raise on all ranks if their values differ.

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
    """Ranks that share a fit started in this context."""
    return _PRESENT.get()


@contextmanager
def among(ranks: Ranks) -> Iterator[None]:
    """Share the fits started in the context among ``ranks``."""
    token = _PRESENT.set(ranks)
    try:
        yield
    finally:
        _PRESENT.reset(token)


class ProcessRanks(Ranks):
    """Several processes, connected by a group of torch.distributed.

    Parameters
    ----------
    objects : ProcessGroup
        Group with gloo, for objects in the memory of the host.
    on_device : ProcessGroup, optional
        Group with nccl, for tensors on a GPU.
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
                f"Rank {self.rank} lost the others before. Leave the `data_parallel` context "
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
            "With checkpoint_dir, `fit` resumes from the last saved epoch, with any number of "
            "ranks."
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

    def add_up(self, tensor: Tensor) -> None:
        with self._together("summing parts of ln Z"):
            dist.all_reduce(tensor, group=self._group(tensor))

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
                    # Average the differences, so that equal values remain bitwise equal.
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
            # Fits that are started within this fit, for example by callbacks, are not shared.
            with among(ALONE):
                yield
        except BaseException as error:
            self.leave(error)
            raise

    def leave(self, error: BaseException | None = None) -> None:
        """Leave the group, and notify the others of an error if there is one."""
        if self._left:
            return
        self._left = True
        if error is not None and not isinstance(error, LostRanksError):
            names = [kind.__name__ for kind in type(error).__mro__]
            kind = next((name for name in names if name in SHARED_ERRORS), names[0])
            with suppress(RuntimeError, ValueError):
                _store().set(self._key, json.dumps([self.rank, kind, str(error)]))
        for group in self.groups[::-1]:
            # Closing the sockets wakes up all other ranks.
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
                # The others do not answer: continue without them.
                self._interrupted = False
                self.leave(KeyboardInterrupt())
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            if self._interrupted:  # since the last communication between ranks
                self._interrupted = False
                signal.raise_signal(signal.SIGINT)

    def _raise_if(self, interrupted: bool) -> None:
        if interrupted:
            self._interrupted = False
            raise KeyboardInterrupt


def _store() -> Any:
    return dist.distributed_c10d._get_default_store()
