"""Training: the loop, its steps, the objectives, and checkpoints."""

from __future__ import annotations

from skevae.training.objectives import (
    DoublyReparametrizedBound,
    EvidenceLowerBound,
    ImportanceWeightedBound,
    Objective,
)

OBJECTIVES: dict[str, Objective] = {
    "elbo": EvidenceLowerBound(),
    "iwae": ImportanceWeightedBound(),
    "iwae-dreg": DoublyReparametrizedBound(),
}
