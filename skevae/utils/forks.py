"""Forked processes, in which torch's threads are missing.

A forked child has a copy of its parent's memory, but of its threads only the one that forked. If
torch has computed in several threads before, the child waits for ever for the others at its first
parallel loop. That cannot be mended from here, but it can be said. A lock that another thread held
at that moment would never be released either; those of this package are new in a child.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

import torch


class _Threads:
    """What is known of torch's threads in this process."""

    used = False  # computed here in more than one
    lost = False  # used by a parent, and so missing here

    def forked(self) -> None:
        self.used, self.lost = False, self.used or self.lost


class ProcessLock:
    """A lock that a thread can take several times, and that a forked child does not find taken.

    Unless the thread that forked had taken it itself.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *raised: object) -> None:
        self._lock.release()

    def forked(self) -> None:
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


def _forked() -> None:
    _threads.forked()
    for lock in _locks:
        lock.forked()


_threads = _Threads()
_locks: WeakSet[ProcessLock] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def check_threads() -> None:
    """Refuse to compute where torch would wait for threads that did not survive a fork.

    Called before each computation: it also notes that there is one.

    Raises
    ------
    RuntimeError
        If this process was forked after a computation in several threads, and would use several.
    """
    if torch.get_num_threads() == 1:
        return
    if _threads.lost:
        raise RuntimeError(
            "This process was forked from one in which torch had computed in several threads, and "
            "would wait for ever for these. Start workers another way: by joblib's 'loky', or by "
            "multiprocessing.get_context('spawn') or 'forkserver'; or call torch.set_num_threads(1)"
            " in the worker before anything else."
        )
    _threads.used = True
