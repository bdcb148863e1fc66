"""The paper's estimate of ln Z, from the row's own posterior (eq. 3)."""

from __future__ import annotations

from torch import Tensor

from skevae.partitions.base import PartitionEstimate
from skevae.posteriors.base import Posterior
from skevae.posteriors.draws import LatentDraws
from skevae.utils.log_mean import log_mean_exp


class PosteriorPartition(PartitionEstimate):
    """The paper's estimate: ln of the mean of exp(r_k) over the row's own draws (eq. 3).

    It only covers the mass of exp(-E) near the posterior of the row. The estimate of Z is unbiased,
    so the estimate of ln Z is too low in expectation and the objective too high, without limit:
    with one draw, it is only the reconstruction term. It is not a bound on the likelihood.
    """

    def __call__(
        self, draws: LatentDraws, posterior: Posterior, log_weights: Tensor | None = None
    ) -> Tensor:
        return log_mean_exp(-draws.energy - draws.log_posterior)
