"""The methods to estimate the log-likelihood of a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from skevae.evaluation.annealed import annealed_weights
from skevae.evaluation.importance import (
    EncodedRows,
    Noise,
    importance_estimate,
    log_weights,
    self_normalized_estimate,
)
from skevae.vae import VAE

# (model, guide, rows, noise, draws_at_once) -> ln p(x | z_k), and the term that is added to it for
# the log-weight of draw k: (m, n) each. The guide is a differentiable energy of the latents.
Weights = Callable[
    [VAE, Callable[[Tensor], Tensor], EncodedRows, Noise, int], tuple[Tensor, Tensor]
]


class Method(NamedTuple):
    """How weights are drawn, and how an estimate is computed from them.

    Attributes
    ----------
    weights : callable
    estimate : callable (log_likelihood, log_ratio, log_z) -> Tensor of shape (n,)
    is_bound : bool
        Whether its expectation is independent of the proposal and the number of draws, except for
        the bias of the logarithm.
    min_refined_draws : float
        With fewer draws, no Gaussians are fitted to the posteriors of the rows.
    own_share, defensive_share : float
        Fractions of the draws that come from the encoder's posterior (if a Gaussian is fitted) and
        from the distribution of the latents.
    """

    weights: Weights
    estimate: Callable[[Tensor, Tensor, float], Tensor]
    is_bound: bool
    min_refined_draws: float
    own_share: float
    defensive_share: float


def importance_weights(
    model: VAE,
    guide: Callable[[Tensor], Tensor],
    rows: EncodedRows,
    noise: Noise,
    draws_at_once: int,
) -> tuple[Tensor, Tensor]:
    """Weights of draws that are not moved; the guide is not used."""
    return log_weights(model, rows, noise, draws_at_once)


METHODS: dict[str, Method] = {
    "importance": Method(
        importance_weights,
        importance_estimate,
        is_bound=True,
        # Fitting a proposal costs as much as some hundreds of draws.
        min_refined_draws=100,
        own_share=0.25,
        defensive_share=0.1,
    ),
    "annealed": Method(
        annealed_weights,
        importance_estimate,
        is_bound=True,
        min_refined_draws=1,
        own_share=0.0,
        defensive_share=0.0,
    ),
    # Eq. 5 needs draws from the row's own posterior. It is usually too high.
    "self_normalized": Method(
        importance_weights,
        self_normalized_estimate,
        is_bound=False,
        min_refined_draws=math.inf,
        own_share=1.0,
        defensive_share=0.0,
    ),
}
