"""ln Z by importance sampling from the pooled posteriors of the minibatch."""

from __future__ import annotations

from torch import Tensor

from skevae.partitions.base import PartitionEstimate
from skevae.posteriors.base import Posterior
from skevae.posteriors.draws import LatentDraws
from skevae.utils.log_mean import log_mean_exp


class AggregatePartition(PartitionEstimate):
    """Importance sampling from the posteriors of the minibatch, pooled as one mixture proposal.

    All draws of all rows estimate one ln Z, each weighted relative to the density of the mixture
    (the balance heuristic of Veach & Guibas 1995). Mass that the aggregated posterior does not
    cover is missed: little of Z in low dimension, but almost all of it in high dimension.
    """

    def __call__(
        self, draws: LatentDraws, posterior: Posterior, log_weights: Tensor | None = None
    ) -> Tensor:
        z = draws.z.flatten(0, 1)
        log_mixture = log_mean_exp(posterior.pairwise_log_density(z, draws.posterior_outputs), 1)
        return log_mean_exp(-draws.energy.flatten() - log_mixture)
