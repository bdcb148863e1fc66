"""Checkpoint files, from which an interrupted training run is resumed."""

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

# Minimum time in seconds between two writes, except the last: writing must not slow down training.
SECONDS_BETWEEN_SAVES = 20.0

# Kind of the file, with the version of its format.
KIND = "skevae checkpoint 5"

# Spawned seeds of a run before this index are used for other purposes.
FIRST_FREE_SEED = 1000

# Temporary files older than this were left by a killed process.
STALE_SECONDS = 3600.0


def structure(module: nn.Module) -> list[Any]:
    """Describe a module: its repr, and the names and shapes of its state."""
    return [repr(module), [(k, tuple(v.shape)) for k, v in module.state_dict().items()]]


def source(value: Any) -> str | None:
    """Source of a custom function or class, if it is available.

    Functions that it calls are not included: changes elsewhere in its module are not detected.
    """
    if not (inspect.isfunction(value) or inspect.isclass(value)):
        return None
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return None


def fingerprint(*parts: Any) -> str:
    """Hash of everything that determines a run, equal in all processes.

    Raises
    ------
    ValueError
        If a part cannot be pickled, such as a network built by a lambda.
    """
    try:
        return joblib.hash((KIND, *parts))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "checkpoint_dir needs parameters that can be pickled, because a file is named by their "
            f"hash ({error}). Define functions at the top level of a module."
        ) from error


def prepare_directory(directory: str | os.PathLike[str]) -> Path:
    """Create the directory, check that it is writable, and clean up after killed processes.

    Raises
    ------
    ValueError
        If ``directory`` is empty.
    OSError
        If it cannot be created or written.
    """
    if not os.fspath(directory):
        raise ValueError("checkpoint_dir='' names no directory. Use None for no checkpoints.")
    path = Path(directory).expanduser()
    # Threads, and processes on other machines with the same id, may check at the same time.
    probe = path / f".writable-{os.getpid()}-{threading.get_ident()}.skevae.0.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"checkpoint_dir={str(directory)!r} is not a writable directory ({error}). "
            "Name another, or use checkpoint_dir=None."
        ) from error
    for left in path.glob("*.skevae.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
        except OSError:
            continue  # removed by another process
    return path


class TrainingFile:
    """State of one run of `skevae.training.loop.Loop`, in a file named by the run's fingerprint.

    Parameters
    ----------
    directory : str or path
        Created if it does not exist. Different runs, such as those of a search, can share it.
    name : str
        The `fingerprint` of the run.
    ranks : Ranks, optional
        Ranks that train together. The first reads and writes the file, with the states of all.

    Raises
    ------
    ValueError
        If ``directory`` is empty; an ArchiveError if the file in it is damaged or not a checkpoint
        of this run.
    OSError
        If the directory cannot be created or written.
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
            f"{self.path} is not a checkpoint of this fit ({error}). Delete it to start again, or "
            "use another checkpoint_dir."
        )

    def seed(self, fresh: int) -> int:
        """Seed of the run: the saved one if there is one, else ``fresh``."""
        self._seed = fresh if self.saved is None else self.saved["seed"]
        return self._seed

    def attach(self, partition: PartitionEstimate, generators: dict[str, torch.Generator]) -> None:
        """Register other objects with a state: the estimate of ln Z, and the generators."""
        self.partition, self.generators = partition, generators

    def load(self, resume: Callable[[dict[str, Any]], None]) -> bool:
        """Resume from the last saved state, if there is one, and restore the attached objects.

        Parameters
        ----------
        resume : callable (state) -> None
            Continues from the state that was passed to `save`.

        Returns
        -------
        bool
            Whether there was a saved state.

        Raises
        ------
        ArchiveError
            If the state does not match the attached objects or the run.
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
        """State of this rank; a new one if the number of ranks has changed."""
        assert self.saved is not None
        if len(states) == self.ranks.size:
            return states[self.ranks.rank]
        # Use other random numbers than in the completed epochs, and different ones on each rank.
        seed = spawn(self._seed, FIRST_FREE_SEED + self.saved["loop"]["past"]["epoch"])[-1]
        order, *seeds = spawn(self.ranks.seed(seed), 1 + len(self.generators))
        named = zip(self.generators.items(), seeds, strict=True)
        return {
            "order": make_generator(order, self.generators["draws"].device).get_state(),
            "partition": self.partition.divided([state["partition"] for state in states]),
            "generators": {n: make_generator(s, g.device).get_state() for (n, g), s in named},
        }

    def save(self, state: Callable[[], dict[str, Any]], *, last: bool) -> None:
        """Replace the file, unless it was written very recently.

        A full disk must not end training: the first failure only issues a warning.
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
                    "Training continues. If it is interrupted, it can only be resumed from an "
                    "earlier checkpoint, if there is one.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._failed = True
