"""The checkpoint that belongs to a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from skevae.training.checkpoint import TrainingFile, fingerprint, source, structure
from skevae.utils.digest import rows_digest
from skevae.utils.ranks import Ranks

# Parameters that do not change the result of training.
NOT_OF_THE_RUN = {
    "checkpoint_dir",
    "cuda_graph",
    "device",
    "ex_post",
    "max_time",
    "n_score_draws",
    "verbose",
    "warm_start",
}


def open_checkpoint(
    estimator: Any,
    device: torch.device,
    module: nn.Module,
    X: np.ndarray,
    weights: np.ndarray | None,
    ranks: Ranks,
) -> TrainingFile:
    """Return the file of a fit in ``checkpoint_dir``, named by all that affects its result."""
    params = estimator.get_params(deep=False)
    relevant = {k: v for k, v in params.items() if k not in NOT_OF_THE_RUN}
    sources = [source(value) for value in relevant.values()]
    # The states of generators differ between types of devices.
    kind = (type(estimator).__name__, device.type)
    rows = table_digest(X, weights, ranks)
    name = fingerprint(*kind, relevant, sources, structure(module), *rows)
    return TrainingFile(estimator.checkpoint_dir, name, ranks)


def table_digest(X: np.ndarray, weights: np.ndarray | None, ranks: Ranks) -> tuple[Any, ...]:
    """Hash of the rows and weights of all ranks, for any division among ranks."""
    shard = ranks.shard(len(X))
    parts = [X]
    if weights is not None:
        # The last digits of their scale depend on the rounding of sums over ranks.
        relative = weights / max(ranks.gather(weights.max()))
        parts.append(relative.astype(np.float32)[:, None])
    digests = [ranks.total(rows_digest(part, shard.start)) % 2**64 for part in parts]
    return X.dtype.str, shard.total, X.shape[1], *digests
