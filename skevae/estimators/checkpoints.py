"""Which checkpoint belongs to a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from skevae.training.checkpoint import TrainingFile, fingerprint, source, structure

# Parameters that do not change what a training arrives at.
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
) -> TrainingFile:
    """Return the file of a fit in ``checkpoint_dir``, found by all that decides its result."""
    params = estimator.get_params(deep=False)
    relevant = {k: v for k, v in params.items() if k not in NOT_OF_THE_RUN}
    sources = [source(value) for value in relevant.values()]
    # The states of generators differ from one type of device to another.
    kind = (type(estimator).__name__, device.type)
    name = fingerprint(*kind, relevant, sources, structure(module), X, weights)
    return TrainingFile(estimator.checkpoint_dir, name)
