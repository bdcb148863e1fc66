"""Files in which a training keeps its state, so that one that was cut off can go on."""

from __future__ import annotations

import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import joblib
import torch

from skevae.partitions.base import PartitionEstimate

# Between two writes, other than the last: a large network is not to be held up by its copies.
SECONDS_BETWEEN_SAVES = 20.0


# Of what a file holds: files of another format are not found.
FORMAT = 2


def fingerprint(*parts: Any) -> str:
    """Hash of what makes a run what it is, stable over processes.

    Raises
    ------
    ValueError
        If a part cannot be pickled, such as a network built by a lambda.
    """
    try:
        return joblib.hash((FORMAT, *parts))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            "checkpoint_dir needs parameters that can be pickled, for a file is found again by "
            f"their hash ({error}). Define functions at the top level of a module."
        ) from error


class TrainingFile:
    """State of one run of `skevae.training.minimize`, in a file named by the run's fingerprint.

    Parameters
    ----------
    directory : str or path
        Made if it is not there. Runs that differ, such as those of a grid search, share it.
    name : str
        The `fingerprint`.
    device : torch.device
        Where tensors are wanted back.

    Raises
    ------
    ValueError
        If the directory cannot be made, or the file in it cannot be read.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, device: torch.device) -> None:
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"checkpoint_dir={directory!r} is not a directory that can be written ({error}). "
                "Name another."
            ) from error
        self.path = Path(directory) / f"{name}.pt"
        self.device = device
        self.saved: dict[str, Any] | None = None
        self._last_save = time.monotonic()
        if self.path.exists():
            try:
                # On the CPU, where states of generators have to be; tensors are copied from there.
                self.saved = torch.load(self.path, map_location="cpu", weights_only=False)
            except Exception as error:  # whatever a broken pickle raises
                raise ValueError(
                    f"{self.path} is not a readable checkpoint ({error}). Delete it to start anew."
                ) from error

    def seed(self, fresh: int) -> int:
        """Seed of the run: that of the saved one, else ``fresh``."""
        self._seed = fresh if self.saved is None else self.saved["seed"]
        return self._seed

    def attach(self, generator: torch.Generator, partition: PartitionEstimate) -> None:
        """Name what else has a state: the generator of the loss, and the estimate of ln Z."""
        self.generator, self.partition = generator, partition

    def load(self) -> dict[str, Any] | None:
        """Return the state saved last, if there is one, and put back what was attached."""
        if self.saved is None:
            return None
        self.generator.set_state(self.saved["generator"])
        self.partition.resume(self.saved["partition"])
        _set_global_states(self.saved["globals"], self.device)
        return self.saved["state"]

    def save(self, state: dict[str, Any], *, last: bool) -> None:
        """Replace the file, unless that was done a moment ago."""
        if not last and time.monotonic() < self._last_save + SECONDS_BETWEEN_SAVES:
            return
        whole = {
            "state": state,
            "seed": self._seed,
            "generator": self.generator.get_state(),
            "partition": self.partition.state(),
            "globals": _global_states(self.device),
        }
        # Written aside and moved, so that a run cut off while saving leaves the file before it.
        # Fits of one search may be the same run, in processes or in threads.
        aside = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        torch.save(whole, aside)
        aside.replace(self.path)
        self._last_save = time.monotonic()


def _global_states(device: torch.device) -> list[torch.Tensor]:
    """States of torch's global generators, from which a user's dropout layers draw."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_global_states(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
