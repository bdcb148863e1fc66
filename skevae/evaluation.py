r"""Log-likelihood by importance sampling from the posterior, with diagnostics.

.. math::
    \ln p(x) \approx \ln \frac1n \sum_{k=1}^n
        \frac{p(x \mid z_k) \exp(-E(z_k))}{q(z_k \mid x)} - \ln Z, \qquad z_k \sim q(z \mid x)

The mean of the weights is unbiased, so by Jensen's inequality its logarithm errs low; with ln Z
exact, or the upper end of its interval, so does the whole. It never flatters.

Where the law of the latents (the prior, or what is fitted in its place ex post) can be sampled
exactly, a tenth of the draws come from it and all are weighted against the mixture of both laws
(defensive importance sampling; Hesterberg 1995). A posterior that
is too narrow would else give weights without a variance, of which a rare huge one, seen by all rows
at once, flatters; against the mixture no weight exceeds ten times p(x | z).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skevae._linear import ROWS_MULTIPLE
from skevae._random import binary, make_generator, standard_normal
from skevae.modules import VAE
from skevae.partition import log_mean_exp, log_mean_exp_error

# Temporaries of about this size stay in a processor's outer cache; larger ones are slower.
CACHE_BYTES = 2**23


@torch.no_grad()
def widest_output(module: nn.Module, example: Tensor) -> int:
    """Largest number of values that any layer of ``module`` returns for one row ``example``."""
    widest = example.numel()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal widest
        if isinstance(output, Tensor):
            widest = max(widest, output.numel())

    handles = [layer.register_forward_hook(note) for layer in module.modules()]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    return widest


def chunk_sizes(
    n_rows: int, n_draws: int, width: int, itemsize: int, max_bytes: int
) -> tuple[int, int]:
    """Cut an evaluation of ``n_rows`` x ``n_draws`` into pieces of bounded memory.

    Parameters
    ----------
    n_rows, n_draws : int
    width : int
        Values of the widest layer for each (draw, row).
    itemsize : int
        Bytes of a value.
    max_bytes : int
        What all temporaries together may take.

    Returns
    -------
    rows_at_once, draws_at_once : int
    """
    # A layer's input, its output and two temporaries of that size live together, and so do about
    # eight (n_draws, rows) tables of log-weights.
    values = min(max_bytes // 2, CACHE_BYTES) // itemsize
    # Rather few rows than few draws: with so many, products suit the fastest library.
    draws_wanted = min(n_draws, ROWS_MULTIPLE)
    rows_at_once = min(n_rows, values // (8 * n_draws), values // (4 * width * draws_wanted))
    rows_at_once = max(1, rows_at_once)
    draws_at_once = max(1, min(n_draws, values // (4 * rows_at_once * width)))
    if ROWS_MULTIPLE < draws_at_once < n_draws:
        draws_at_once -= draws_at_once % ROWS_MULTIPLE
    return rows_at_once, draws_at_once


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
    """Normalised importance sampling: (n_draws, n) twice -> (n,). Errs low."""
    return log_mean_exp(log_likelihood + log_ratio) - log_z


def self_normalized_estimate(log_likelihood: Tensor, log_ratio: Tensor, log_z: float) -> Tensor:
    """Eq. 5 of the paper, without ln Z: (n_draws, n) twice -> (n,). As a rule it errs high."""
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


def effective_sample_size(weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of log-weights, between 1 and n_draws: (n_draws, n) -> (n,)."""
    relative = (weights - weights.amax(0)).exp()
    return relative.sum(0).square() / relative.square().sum(0)


def pareto_k(weights: Tensor) -> Tensor:
    r"""Shape of the generalised Pareto tail of importance weights.

    Below 0.5 the weights have finite variance and their standard error means what it says; above
    0.7 neither the estimate nor its error can be relied on (Vehtari et al. 2024, "Pareto smoothed
    importance sampling"). The fit is that of Zhang & Stephens (2009) with the weak prior of
    Vehtari et al.

    Parameters
    ----------
    weights : Tensor of shape (n_draws, n)
        Log-weights.

    Returns
    -------
    Tensor of shape (n,)
        k-hat. Minus infinity where the largest weights do not differ (there is no tail), and nan
        below 25 draws, from which no tail can be fitted.
    """
    n_draws, n_rows = weights.shape
    n_tail = math.ceil(min(0.2 * n_draws, 3 * math.sqrt(n_draws)))
    if n_draws < 25:
        return weights.new_full((n_rows,), math.nan)
    # In float64: ties among many float32 weights leave a tail whose fit overflows.
    dtype, weights = weights.dtype, weights.double()
    top = weights.topk(n_tail + 1, dim=0).values
    relative = (top - top[0]).exp()
    # Ascending excesses over the largest weight outside the tail: (n_rows, n_tail).
    excess = (relative[:-1] - relative[-1]).flip(0).mT
    largest = excess[:, -1:]
    has_tail = largest > torch.finfo(weights.dtype).eps
    excess = torch.where(has_tail, excess, torch.ones_like(excess))
    quartile = excess[:, math.floor(n_tail / 4 + 0.5) - 1, None].clamp(
        min=torch.finfo(weights.dtype).tiny
    )

    n_grid = 30 + math.floor(math.sqrt(n_tail))
    grid = torch.arange(1, n_grid + 1, dtype=weights.dtype, device=weights.device)
    theta = excess[:, -1:].reciprocal() + (1 - (n_grid / (grid - 0.5)).sqrt()) / (3 * quartile)
    shape = torch.log1p(-theta[:, :, None] * excess[:, None, :]).mean(2)
    log_profile = n_tail * ((-theta / shape).log() - shape - 1)
    theta_hat = (log_profile.nan_to_num(-math.inf).softmax(1) * theta).sum(1, keepdim=True)
    k = torch.log1p(-theta_hat * excess).mean(1)
    # Ten observations' worth of belief in k = 0.5.
    k = (n_tail * k + 5) / (n_tail + 10)
    return torch.where(has_tail.squeeze(1), k, torch.full_like(k, -math.inf)).to(dtype)


# What importance weights say about their own estimate: log-weights (n_draws, n) -> (n,).
DIAGNOSTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "standard_error": log_mean_exp_error,
    "effective_sample_size": effective_sample_size,
    "pareto_k": pareto_k,
}

# Parts of all draws that a row may be given, and the part that a pilot run takes to find out which.
STAGES = (1 / 16, 1 / 4, 1)
PILOT = 1 / 16
# Below it no error is known.
MIN_PILOT_DRAWS = 25


def draws_needed(error: Tensor, n_pilot: int, stages: Sequence[int], tol: float) -> Tensor:
    """Choose for each row the fewest draws by which its error should be at most ``tol``.

    The pilot's own draws may not be those of the estimate. Of weights that are bounded, as those of
    a posterior that is too wide, a few that happen to be large have a small spread: to end there is
    to end on luck, and a score that errs low in expectation would err high.

    Parameters
    ----------
    error : Tensor of shape (n,)
        Standard errors of ``n_pilot`` draws. What is not a number takes all.
    n_pilot : int
    stages : sequence of int
        Numbers of draws to choose from, ascending.
    tol : float

    Returns
    -------
    Tensor of shape (n,)
        Of int64.
    """
    choices = torch.tensor(stages, device=error.device)
    enough = error[:, None] * (n_pilot / choices).sqrt() <= tol
    enough[:, -1] = True
    return choices[enough.to(torch.uint8).argmax(1)]


def by_number_of_draws(
    evaluate: Callable[[Tensor, int], dict[str, Tensor]], x: Tensor, n_draws: Tensor
) -> dict[str, Tensor]:
    """Evaluate rows that are given different numbers of draws.

    Parameters
    ----------
    evaluate : callable (rows, number of draws) -> dict of Tensor of shape (rows,)
    x : Tensor of shape (n, n_features)
    n_draws : Tensor of shape (n,)

    Returns
    -------
    dict of Tensor of shape (n,)
    """
    values: dict[str, Tensor] = {}
    for n in n_draws.unique().tolist():
        (rows,) = (n_draws == n).nonzero(as_tuple=True)
        for name, part in evaluate(x[rows], n).items():
            values.setdefault(name, part.new_empty(len(x)))[rows] = part
    return values


@torch.no_grad()
def held_out_bound(
    model: VAE,
    x: Tensor,
    *,
    n_draws: int,
    rows_at_once: int,
    draws_at_once: int,
    rebinarize: bool,
    seed: int,
    log_partition: float,
) -> float:
    """Mean importance-weighted bound of rows with ln Z as good as it can be had, in nats.

    What training is watched by, whatever it maximises: the paper's estimate rises while the model
    falls. The noise is the same at each call, so that epochs compare.
    """
    generator = make_generator(seed, x.device)
    total = x.new_zeros(())
    for rows in x.split(rows_at_once):
        if rebinarize:
            rows = binary(rows, generator)
        noise = standard_normal((n_draws, rows.shape[0], model.density.n_latent), generator, x)
        log_likelihood, log_ratio = log_weights(model, rows, noise, draws_at_once)
        total += log_mean_exp(log_likelihood + log_ratio).sum()
    return total.item() / x.shape[0] - log_partition


@torch.no_grad()
def aggregated_moments(model: VAE, x: Tensor, rows_at_once: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each latent under the aggregated posterior of rows: (D,) each."""
    # In float64: a mean square less a squared mean leaves few digits of a narrow spread.
    total, squares = torch.zeros((2, model.density.n_latent), dtype=torch.float64, device=x.device)
    for rows in x.split(rows_at_once):
        outputs = model.encoder(rows)
        mean = model.posterior.mean(outputs).double()
        total += mean.sum(0)
        squares += (mean.square() + model.posterior.variance(outputs)).sum(0)
    mean = total / x.shape[0]
    variance = squares / x.shape[0] - mean.square()
    return mean.to(x.dtype), variance.to(x.dtype)


@torch.no_grad()
def aggregated_draws(
    model: VAE,
    x: Tensor,
    n_draws: int,
    *,
    rows_at_once: int,
    rebinarize: bool,
    generator: torch.Generator,
) -> Tensor:
    """Draws of the aggregated posterior: ``n_draws`` z ~ q(z | x) of each row, (n_draws n, D)."""
    parts = []
    for _ in range(n_draws):
        for rows in x.split(rows_at_once):
            if rebinarize:
                rows = binary(rows, generator)
            noise = standard_normal((1, rows.shape[0], model.density.n_latent), generator, rows)
            parts.append(model.posterior.draw(model.encoder(rows), noise)[0][0])
    return torch.cat(parts)
