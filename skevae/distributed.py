"""Data-parallel `fit`: several processes, each with its rows, train one model."""

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

# What torchrun tells its processes.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def data_parallel(
    group: dist.ProcessGroup | None = None, *, timeout: float = 1800.0
) -> Iterator[Ranks]:
    """Train one model on the rows of several processes.

    Within the context ``fit`` and ``partial_fit`` of `EnergyVAE` and of the prior estimators are
    calls that all processes make together, each with its own rows. Each step then follows the
    gradient of one minibatch, of which every process computes the part that lies in its rows, and
    all of them end with the same model. Outside of the context, and in a group of one process,
    everything is as ever.

    The processes are started by ``torchrun`` or whatever else sets its environment variables,
    or have called `torch.distributed.init_process_group` before.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, default=None
        The processes that train. By default all.
    timeout : float, default=1800.0
        Seconds after which a process that waits for another gives up. It has to exceed the time
        by which one can be behind: at the end of a ``fit`` with ``ex_post``, say, all wait for the
        first, which fits that estimator.

    Yields
    ------
    ranks : object
        With the attributes ``rank``, the number of this process from 0, and ``size``, how many
        there are.

    Raises
    ------
    RuntimeError
        If there is no process group and the environment variables of ``torchrun`` are missing, if
        torch was built without torch.distributed, or the context is entered within itself. In
        ``fit``: if another process has ended or does not answer in time.
    ValueError
        If ``timeout`` is not above 0, or this process is not in the group.

    Notes
    -----
    Give the rows in the order of ranks, ``numpy.array_split(X, ranks.size)[ranks.rank]`` of a table
    that all can read. Then the held-out rows are those of a fit in one process, and a checkpoint
    is found again by any number of processes.

    Examples
    --------
    A group of one process; in a script that ``torchrun`` starts, there is no need to make one:

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
        raise RuntimeError("data_parallel() is open already. Leave it before you enter it again.")
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
    """Join the processes that torchrun has started."""
    if not dist.is_available():
        raise RuntimeError(
            "This torch was built without torch.distributed. Install one with it, or fit in one "
            "process."
        )
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise RuntimeError(
            "data_parallel() found no process group, nor the environment variables "
            f"{', '.join(missing)} to make one. Start the script by "
            "`torchrun --nproc-per-node 2 script.py`, or call "
            "torch.distributed.init_process_group first."
        )
    backend = "cpu:gloo,cuda:nccl" if _has_nccl() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))


def _joined(members: list[int], is_part: bool, timeout: timedelta) -> ProcessRanks:
    """Make groups of our own, which can be given up without harm to those of the user."""
    settings: dict[str, Any] = {"timeout": timeout, "use_local_synchronization": is_part}
    objects = dist.new_group(members, backend="gloo", **settings)
    on_device = dist.new_group(members, backend="nccl", **settings) if _has_nccl() else None
    return ProcessRanks(objects, on_device)


def _has_nccl() -> bool:
    return torch.cuda.is_available() and dist.is_nccl_available()
