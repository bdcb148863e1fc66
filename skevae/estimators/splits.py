"""Which rows are held out, and which describe all of them, where several ranks have a part each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skevae.estimators.rows import Rows, in_memory, initial_rows
from skevae.utils.random import make_generator
from skevae.utils.ranks import Ranks, Shard

# Rows of several ranks that are sent around to describe all.
SHARED_ROWS = 10_000


def split(rows: Rows, shard: Shard, fraction: float, seed: int) -> tuple[Rows, Tensor]:
    """Shuffle rows once and hold some out: (training, held out).

    The rows of all ranks are shuffled as one table, of which each rank takes what it has. So it is
    the same rows that are held out, however many ranks there are.

    Parameters
    ----------
    rows : Rows
        Of this rank.
    shard : Shard
        Where they are among those of all ranks.
    fraction : float
        Part that is held out, of all rows.
    seed : int

    Raises
    ------
    ValueError
        If that leaves no rows to train on.
    """
    n_held_out = max(1, round(fraction * shard.total))
    if n_held_out >= shard.total:
        raise ValueError(
            f"validation_fraction={fraction!r} of {shard.total} rows leaves none to train on. Use "
            "a smaller fraction or early_stopping=False."
        )
    order = torch.randperm(shard.total, generator=make_generator(seed))
    held_out, train = order[:n_held_out], order[n_held_out:]
    if shard.stop - shard.start < shard.total:
        held_out, train = (
            part[(part >= shard.start) & (part < shard.stop)] - shard.start
            for part in (held_out, train)
        )
    return rows[train.to(rows.device)], in_memory(rows[held_out.to(rows.device)])


def descriptive_rows(rows: Rows, ranks: Ranks) -> Tensor:
    """Rows that a model is initialised by: all, or some from all over them and from all ranks."""
    some = initial_rows(rows)
    if ranks.size == 1:
        return some
    shard = ranks.shard(len(rows))
    n_rows = min(len(some), math.ceil(len(rows) * min(1.0, SHARED_ROWS / shard.total)))
    some = some[torch.arange(n_rows, device=some.device) * len(some) // max(n_rows, 1)]
    return torch.cat([part.to(some.device) for part in ranks.gather(some.cpu())])
