"""Training: the loop, its steps, what they minimise, and where their state is kept."""

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
