"""The state of a training run between epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Progress:
    """The state of a run between epochs, except for parameters, optimizer and average.

    Attributes
    ----------
    start, best : list of Tensor
        Snapshots of the initial state, and of the state that would be kept if the run ended now.
    start_score : float
        The score of ``start`` according to `check`.
    epoch : int
        Number of completed epochs.
    best_score, reference_score : float
        The score of ``best``, and the score that must be exceeded by ``tol``.
    stale : int
        Number of consecutive epochs that did not exceed it.
    n_drops : int
        How often the learning rate has been lowered.
    validated : bool
        Whether ``best`` was chosen by a score.
    """

    start: list[Tensor]
    best: list[Tensor]
    start_score: float = -math.inf
    epoch: int = 0
    best_score: float = -math.inf
    reference_score: float = -math.inf
    stale: int = 0
    n_drops: int = 0
    validated: bool = False
