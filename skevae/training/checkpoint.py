"""Files in which a training keeps its state, so that one that was cut off can go on."""

from __future__ import annotations

import inspect
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import torch
from torch import nn

from skevae.partitions.base import PartitionEstimate
from skevae.utils.archive import ArchiveError, check_form, read_archive, write_archive
from skevae.utils.random import make_generator, spawn
from skevae.utils.ranks import ALONE, Ranks

# Between two writes, other than the last: a large network is not to be held up by its copies.
SECONDS_BETWEEN_SAVES = 20.0

# What a file holds, with the version of its format.
KIND = "skevae checkpoint 5"

# Seeds before this one, spawned from that of a run, are spoken for.
FIRST_FREE_SEED = 1000

# A temporary file this old was left by a process that was killed.
STALE_SECONDS = 3600.0


def structure(module: nn.Module) -> list[Any]:
    """Describe a module: its printed structure, and the names and shapes of its state."""
    return [repr(module), [(k, tuple(v.shape)) for k, v in module.state_dict().items()]]


def source(value: Any) -> str | None:
    """Source of a function or class of the user's, where it can be had.

    What the function calls is not seen: a change elsewhere in its module goes unnoticed.
    """
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return None
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return None


def fingerprint(*parts: Any) -> str:
    """Hash of everything that determines a run, stable over processes.

    Raises
    ------
    ValueError
        If a part cannot be pickled, such as a network built by a lambda.
    """
    try:
        return joblib.hash((KIND, *parts))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "checkpoint_dir needs parameters that can be pickled, because a file is found by their "
            f"hash ({error}). Define functions at the top level of a module."
        ) from error


def prepare_directory(directory: str | os.PathLike[str]) -> Path:
    """Make the directory, see that it can be written, and clear up after killed processes.

    Raises
    ------
    ValueError
        If ``directory`` is empty.
    OSError
        If it cannot be made or written.
    """
    if not os.fspath(directory):
        raise ValueError("checkpoint_dir='' names no directory. Use None for no checkpoints.")
    path = Path(directory).expanduser()
    # Threads, and processes of other machines with the same number, may look at the same time.
    probe = path / f".writable-{os.getpid()}-{threading.get_ident()}.skevae.0.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"checkpoint_dir={str(directory)!r} is not a directory that can be written ({error}). "
            "Name another, or use checkpoint_dir=None."
        ) from error
    for left in path.glob("*.skevae.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
        except OSError:
            continue  # another process was quicker
    return path


class TrainingFile:
    """State of one run of `skevae.training.loop.Loop`, in a file named by the run's fingerprint.

    Parameters
    ----------
    directory : str or path
        Made if it does not exist. Different runs, such as those of a grid search, can share it.
    name : str
        The `fingerprint`.
    ranks : Ranks, optional
        That train together. The first reads and writes the file, with the states of all.

    Raises
    ------
    ValueError
        If ``directory`` is empty; an ArchiveError if the file in it is damaged or not a checkpoint
        of this run.
    OSError
        If the directory cannot be made or written.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, ranks: Ranks = ALONE) -> None:
        self.path = Path(directory).expanduser() / f"{name}.skevae"
        self.name = name
        self.ranks = ranks
        self._last_save = time.monotonic()
        self._failed = False
        self.saved = ranks.first(self._read)

    def _read(self) -> dict[str, Any] | None:
        prepare_directory(self.path.parent)
        if not self.path.exists():
            return None
        try:
            saved = read_archive(self.path, KIND)
            if saved["name"] != self.name or not isinstance(saved["seed"], int):
                raise ArchiveError(f"it belongs to another run, {saved['name']}")
        except (ArchiveError, KeyError, TypeError) as error:
            raise ArchiveError(self._refusal(error)) from error
        return saved

    def _refusal(self, error: Exception) -> str:
        return (
            f"{self.path} is not a checkpoint of this fit ({error}). Delete it to start anew, or "
            "name another checkpoint_dir."
        )

    def seed(self, fresh: int) -> int:
        """Seed of the run: that of the saved one, else ``fresh``."""
        self._seed = fresh if self.saved is None else self.saved["seed"]
        return self._seed

    def attach(self, partition: PartitionEstimate, generators: dict[str, torch.Generator]) -> None:
        """Name what else has a state: the estimate of ln Z, and the generators of the run."""
        self.partition, self.generators = partition, generators

    def load(self, resume: Callable[[dict[str, Any]], None]) -> bool:
        """Resume from the state saved last, if there is one, and put back what was attached.

        Parameters
        ----------
        resume : callable (state) -> None
            Goes on from what `save` was given.

        Returns
        -------
        bool
            Whether there was a state.

        Raises
        ------
        ArchiveError
            If the state does not fit what was attached, or what resumes.
        """
        if self.saved is None:
            return False
        try:
            own = self._own(self.saved["ranks"])
            check_form(own["partition"], self.partition.state(), "the partition")
            for name, generator in self.generators.items():
                generator.set_state(own["generators"][name])
            self.partition.resume(own["partition"])
            resume({**self.saved["loop"], "order": own["order"]})
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ArchiveError(self._refusal(error)) from error
        return True

    def _own(self, states: list[dict[str, Any]]) -> dict[str, Any]:
        """State of this rank; a new one, if there were more or fewer ranks before."""
        assert self.saved is not None
        if len(states) == self.ranks.size:
            return states[self.ranks.rank]
        # Other random numbers than those of the epochs that are over, and than each other's.
        seed = spawn(self._seed, FIRST_FREE_SEED + self.saved["loop"]["past"]["epoch"])[-1]
        order, *seeds = spawn(self.ranks.seed(seed), 1 + len(self.generators))
        named = zip(self.generators.items(), seeds, strict=True)
        return {
            "order": make_generator(order, self.generators["draws"].device).get_state(),
            "partition": self.partition.divided([state["partition"] for state in states]),
            "generators": {n: make_generator(s, g.device).get_state() for (n, g), s in named},
        }

    def save(self, state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        """Replace the file, unless that was done a moment ago.

        A disk that is full must not end the training: the first failure is reported by a warning.
        """
        due = last or time.monotonic() >= self._last_save + SECONDS_BETWEEN_SAVES
        if not self.ranks.gather(due)[0]:
            return
        loop = state()
        own = {
            "order": loop.pop("order"),
            "partition": self.partition.state(),
            "generators": {name: g.get_state() for name, g in self.generators.items()},
        }
        states = self.ranks.gather(own)
        if self.ranks.rank == 0:
            self._write({"name": self.name, "seed": self._seed, "loop": loop, "ranks": states})
        self._last_save = time.monotonic()

    def _write(self, whole: dict[str, Any]) -> None:
        try:
            write_archive(self.path, KIND, whole)
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"The state of the training could not be saved to {self.path} ({error}). "
                    "Training goes on; if it is cut off, it has to start again.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._failed = True
