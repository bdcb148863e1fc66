"""Forked processes, in which threads of torch are missing.

A forked child has a copy of its parent's memory, but only the thread that forked. If torch has
computed with several threads before, the child waits forever for the others in its first parallel
loop. This package cannot fix this, but raises an error. A lock that another thread held at that
moment would also never be released; the locks of this package are created again in a child.
"""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

import torch


class _Threads:
    """State of torch's threads in this process."""

    used = False  # this process has computed with several threads
    lost = False  # used by a parent, and therefore missing here

    def forked(self) -> None:
        self.used, self.lost = False, self.used or self.lost


class ProcessLock:
    """A reentrant lock that is not locked in a forked child.

    It only remains locked if the thread that forked holds it.
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
    """Raise if torch would wait for threads that did not survive a fork.

    Called before each computation, which it also records.

    Raises
    ------
    RuntimeError
        If this process was forked after a computation with several threads, and would use several.
    """
    if torch.get_num_threads() == 1:
        return
    if _threads.lost:
        raise RuntimeError(
            "This process was forked after torch had computed with several threads in the parent, "
            "and would wait forever for these threads. Start workers with joblib's 'loky', or with "
            "multiprocessing.get_context('spawn') or 'forkserver'; or call torch.set_num_threads(1)"
            " in the worker before anything else."
        )
    _threads.used = True
