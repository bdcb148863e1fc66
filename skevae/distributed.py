"""Data-parallel `fit`: several processes, each with a part of the rows, train one model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist

from skevae.utils.ranks import ALONE, ProcessRanks, Ranks, among, current_ranks

__all__ = ["data_parallel"]

# Environment variables set by torchrun.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def data_parallel(
    group: dist.ProcessGroup | None = None, *, timeout: float = 1800.0
) -> Iterator[Ranks]:
    """Train one model on the rows of several processes.

    In this context, all processes must call ``fit`` or ``partial_fit`` of `EnergyVAE` or of a prior
    estimator together, each with its own rows. In each step, every process computes the gradient
    for its part of one minibatch, and the gradients are summed. At the end, all processes hold the
    same model. Outside of the context, and in a group of one process, nothing changes.

    Start the processes with ``torchrun`` or another launcher that sets the same environment
    variables, or call `torch.distributed.init_process_group` before.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, default=None
        The processes that train the model. By default, all processes.
    timeout : float, default=1800.0
        Time in seconds after which a process that waits for another raises an error. It must exceed
        the longest wait: for example, at the end of a ``fit`` with ``ex_post``, all processes wait
        for the first one, which fits that estimator.

    Yields
    ------
    ranks : object
        Has the attributes ``rank``, the number of this process from 0, and ``size``, the number of
        processes.

    Raises
    ------
    RuntimeError
        If there is no process group and the environment variables of ``torchrun`` are missing, if
        torch was built without torch.distributed, or if the context is nested. In ``fit``, if
        another process has ended or does not answer in time.
    ValueError
        If ``timeout`` is not above 0, or this process is not in the group.

    Notes
    -----
    Pass the rows in the order of ranks, for example
    ``numpy.array_split(X, ranks.size)[ranks.rank]`` if all processes can read the table. Then the
    held-out rows are those of a fit in one process, and a checkpoint can be resumed with any number
    of processes.

    Examples
    --------
    With a group of one process (a script that is started by ``torchrun`` does not need to create
    it):

    >>> import numpy as np
    >>> import torch.distributed as dist
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> from skevae.distributed import data_parallel
    >>> X = load_iris().data
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> with data_parallel() as ranks:
    ...     rows = np.array_split(X, ranks.size)[ranks.rank]
    ...     vae = EnergyVAE(n_components=2, max_iter=2, random_state=0).fit(rows)
    >>> rows.shape
    (150, 4)
    >>> dist.destroy_process_group()
    """
    if not isinstance(timeout, Real) or not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}.")
    if current_ranks() is not ALONE:
        raise RuntimeError("data_parallel() cannot be nested. Leave it before you enter it again.")
    with ExitStack() as stack:
        if not (dist.is_available() and dist.is_initialized()):
            _initialise(float(timeout))
            stack.callback(dist.destroy_process_group)
        members = dist.get_process_group_ranks(group or dist.group.WORLD)
        if dist.get_rank() not in members:
            raise ValueError(
                f"This process has rank {dist.get_rank()}, which is not in the group {members}. "
                "Enter data_parallel(group) only on its members."
            )
        if len(members) == 1:
            yield ALONE
            return
        ranks = _joined(members, group is not None, timedelta(seconds=float(timeout)))
        stack.callback(ranks.leave)
        local = int(os.environ.get("LOCAL_RANK", "-1"))
        if 0 <= local < torch.cuda.device_count():
            stack.enter_context(torch.cuda.device(local))
        stack.enter_context(among(ranks))
        try:
            yield ranks
        except BaseException as error:
            ranks.leave(error)
            raise


def _initialise(timeout: float) -> None:
    """Join the processes that were started by torchrun."""
    if not dist.is_available():
        raise RuntimeError(
            "This torch was built without torch.distributed. Install torch with it, or fit in one "
            "process."
        )
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise RuntimeError(
            "data_parallel() found no process group, nor the environment variables "
            f"{', '.join(missing)} to create one. Start the script with "
            "`torchrun --nproc-per-node 2 script.py`, or call "
            "torch.distributed.init_process_group first."
        )
    backend = "cpu:gloo,cuda:nccl" if _has_nccl() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))


def _joined(members: list[int], is_part: bool, timeout: timedelta) -> ProcessRanks:
    """Create separate groups, which can be destroyed without affecting those of the user."""
    settings: dict[str, Any] = {"timeout": timeout, "use_local_synchronization": is_part}
    objects = dist.new_group(members, backend="gloo", **settings)
    on_device = dist.new_group(members, backend="nccl", **settings) if _has_nccl() else None
    return ProcessRanks(objects, on_device)


def _has_nccl() -> bool:
    return torch.cuda.is_available() and dist.is_nccl_available()
