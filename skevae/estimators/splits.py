"""The split into training and held-out rows, and representative rows, over several ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skevae.estimators.rows import Rows, in_memory, initial_rows
from skevae.utils.random import make_generator
from skevae.utils.ranks import Ranks, Shard
from skevae.utils.weights import by_weight

# Number of rows of several ranks that are exchanged as representative rows.
SHARED_ROWS = 10_000


def split(rows: Rows, shard: Shard, fraction: float, seed: int) -> tuple[Rows, Tensor]:
    """Shuffle rows once and hold out some of them: (training, held out).

    The rows of all ranks are shuffled as one table, and each rank selects its own rows. The
    held-out rows are therefore the same for any number of ranks.

    Parameters
    ----------
    rows : Rows
        Rows of this rank.
    shard : Shard
        Their position among the rows of all ranks.
    fraction : float
        Fraction of all rows that is held out.
    seed : int

    Raises
    ------
    ValueError
        If no training rows are left.
    """
    n_held_out = max(1, round(fraction * shard.total))
    if n_held_out >= shard.total:
        raise ValueError(
            f"validation_fraction={fraction!r} of {shard.total} rows leaves no training rows. Use "
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


def descriptive_rows(rows: Rows, ranks: Ranks, weighted: bool = False) -> Tensor:
    """Rows from which a model is initialised: all, or evenly spaced rows of all ranks.

    If ``weighted``, the last column holds weights, by which the rows are resampled.
    """
    some = _evenly_spaced(rows, ranks)
    if not weighted:
        return some
    # Sorted, so that the choice does not depend on how the rows are divided among ranks.
    some = some[some[:, -1].argsort(stable=True)]
    return some[:, :-1][by_weight(some[:, -1], len(some))]


def _evenly_spaced(rows: Rows, ranks: Ranks) -> Tensor:
    some = initial_rows(rows)
    if ranks.size == 1:
        return some
    shard = ranks.shard(len(rows))
    n_rows = min(len(some), math.ceil(len(rows) * min(1.0, SHARED_ROWS / shard.total)))
    some = some[torch.arange(n_rows, device=some.device) * len(some) // max(n_rows, 1)]
    return torch.cat([part.to(some.device) for part in ranks.gather(some.cpu())])
