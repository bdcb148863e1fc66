r"""Log-likelihood by importance sampling from the posterior, with diagnostics.

.. math::
    \ln p(x) \approx \ln \frac1n \sum_{k=1}^n
        \frac{p(x \mid z_k) \exp(-E(z_k))}{q(z_k \mid x)} - \ln Z, \qquad z_k \sim q(z \mid x)

The mean of the weights is unbiased, so by Jensen's inequality its logarithm is a
lower bound in expectation. With ln Z exact, or the upper end of its interval, so is the estimate.

Where the law of the latents (the prior, or what is fitted in its place ex post) can be sampled
exactly, a tenth of the draws come from it and all are weighted against the mixture of both laws
(defensive importance sampling; Hesterberg 1995). A posterior that
is too narrow would else give weights without a variance, of which a rare huge one, seen by all rows
at once, flatters; against the mixture no weight exceeds ten times p(x | z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skevae.utils.log_mean import log_mean_exp
from skevae.utils.random import make_generator, standard_normal
from skevae.vae import VAE


class Defence(NamedTuple):
    """Draws from the law of the latents itself, shared by all rows."""

    z: Tensor  # (m, D)
    outputs: Tensor  # the decoder's, (m, likelihood outputs)
    energy: Tensor  # (m,)
    log_partition: float


@torch.no_grad()
def make_defence(model: VAE, z: Tensor, log_partition: float) -> Defence:
    """Decode draws ``z`` of the latents' own law, (m, D), for all rows to come."""
    return Defence(z, model.decoder(z), model.density.energy(z), log_partition)


@torch.no_grad()
def log_weights(
    model: VAE, x: Tensor, noise: Tensor, draws_at_once: int, defence: Defence | None = None
) -> tuple[Tensor, Tensor]:
    """Evaluate the importance weights of rows, some draws at a time.

    Parameters
    ----------
    model : VAE
    x : Tensor of shape (n, n_features)
    noise : Tensor of shape (n_draws, 1, D), or (n_draws, n, D)
        Shared among rows, so that a row's score does not depend on the rows beside it.
    draws_at_once : int
    defence : Defence, optional
        Adds its m draws to those of the posterior; all are weighted against the mixture.

    Returns
    -------
    log_likelihood : Tensor of shape (n_draws + m, n)
        ln p(x | z_k).
    log_ratio : Tensor of shape (n_draws + m, n)
        -E(z_k) - ln q(z_k), q the posterior or the mixture.
    """
    n_draws = noise.shape[0]
    n_defence = 0 if defence is None else defence.z.shape[0]
    outputs = model.encoder(x)
    log_likelihood, log_ratio = x.new_empty((2, n_draws + n_defence, x.shape[0]))

    def log_proposal(log_posterior: Tensor, energy: Tensor) -> Tensor:
        if defence is None:
            return log_posterior
        share = n_defence / (n_draws + n_defence)
        log_prior = -energy - defence.log_partition
        return torch.logaddexp(math.log1p(-share) + log_posterior, math.log(share) + log_prior)

    def ratio(log_posterior: Tensor, energy: Tensor) -> Tensor:
        value = -energy - log_proposal(log_posterior, energy)
        # A draw where the latents have no density weighs nothing, even if nothing proposes it.
        return value.masked_fill(energy == math.inf, -math.inf)

    for start in range(0, n_draws, draws_at_once):
        chunk = slice(start, min(start + draws_at_once, n_draws))
        draws = model.draw(x, outputs, noise[chunk])
        log_likelihood[chunk] = draws.log_likelihood
        log_ratio[chunk] = ratio(draws.log_posterior, draws.energy)
    if defence is not None:
        for part in torch.arange(n_defence, device=x.device).split(draws_at_once):
            decoded, energy = defence.outputs[part, None], defence.energy[part, None]
            log_posterior = model.posterior.pairwise_log_density(defence.z[part], outputs)
            # Squares overflow where an outlier's posterior is beyond all bounds: it is nowhere near
            # the prior's draws.
            log_posterior = log_posterior.nan_to_num(nan=-math.inf)
            log_likelihood[n_draws + part] = model.likelihood.log_density(x, decoded)
            log_ratio[n_draws + part] = ratio(log_posterior, energy)
    return log_likelihood, log_ratio


def importance_estimate(log_likelihood: Tensor, log_ratio: Tensor, log_z: float) -> Tensor:
    """Normalised importance sampling: (n_draws, n) twice -> (n,)."""
    return log_mean_exp(log_likelihood + log_ratio) - log_z


def self_normalized_estimate(log_likelihood: Tensor, log_ratio: Tensor, log_z: float) -> Tensor:
    """Eq. 5 of the paper, without ln Z: (n_draws, n) twice -> (n,). Usually too high."""
    return (log_likelihood + log_ratio).logsumexp(0) - log_ratio.logsumexp(0)


METHODS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "importance": importance_estimate,
    "self_normalized": self_normalized_estimate,
}


# Methods whose expectation does not depend on how, or how often, latents are drawn; that of eq. 5
# does, which is of the row's own posterior.
PROPOSAL_FREE_METHODS = {"importance"}


# The part of the draws that comes from the latents' own law.
DEFENSIVE_SHARE = 0.1


@torch.no_grad()
def held_out_bound(
    model: VAE,
    x: Tensor,
    *,
    n_draws: int,
    rows_at_once: int,
    draws_at_once: int,
    seed: int,
    log_partition: float,
    weight: Tensor | None = None,
) -> float:
    """Mean importance-weighted bound of rows with ln Z as good as it can be had, in nats.

    What training is watched by, whatever it maximises: the paper's estimate rises while the model
    falls. The noise is the same at each call, so that epochs compare.
    """
    generator = make_generator(seed, x.device)
    total = x.new_zeros(())
    weights = x.new_ones(len(x)) if weight is None else weight
    for rows, of_rows in zip(x.split(rows_at_once), weights.split(rows_at_once), strict=True):
        rows = model.likelihood.training_rows(rows, generator)
        noise = standard_normal((n_draws, rows.shape[0], model.density.n_latent), generator, x)
        log_likelihood, log_ratio = log_weights(model, rows, noise, draws_at_once)
        total += (log_mean_exp(log_likelihood + log_ratio) * of_rows).sum()
    return total.item() / weights.sum().item() - log_partition
