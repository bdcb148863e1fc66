r"""Log-likelihood by importance sampling from the posterior, with diagnostics.

.. math::
    \ln p(x) \approx \ln \frac1n \sum_{k=1}^n
        \frac{p(x \mid z_k) \exp(-E(z_k))}{q(z_k \mid x)} - \ln Z, \qquad z_k \sim q(z \mid x)

The mean of the weights is unbiased, so by Jensen's inequality its logarithm is a
lower bound in expectation. With ln Z exact, or the upper end of its interval, so is the estimate.

The draws come from a mixture of up to three distributions, and all are weighted relative to this
mixture (the balance heuristic; Veach & Guibas 1995):

- most draws: the Gaussian fitted to the posterior of the row (`skevae.evaluation.refinement`);
- a quarter: the encoder's posterior, for rows whose posterior is far from Gaussian;
- a tenth: the distribution of the latents (the prior or the ex-post density), if it can be sampled
  exactly (defensive importance sampling; Hesterberg 1995). Otherwise, weights of a proposal that is
  too narrow have infinite variance. Rows share their noise, so a rare huge weight would occur in
  all rows at once and make their scores too high. With the mixture, no weight exceeds
  10 p(x | z).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skevae.energies import LOG_2PI
from skevae.evaluation.refinement import RowGaussians
from skevae.utils.log_mean import log_mean_exp
from skevae.utils.random import make_generator, standard_normal
from skevae.vae import VAE


class Defence(NamedTuple):
    """Draws from the distribution of the latents, shared by all rows."""

    z: Tensor  # (m, D)
    outputs: Tensor  # the decoder's, (m, likelihood outputs)
    energy: Tensor  # (m,)
    log_partition: float


@torch.no_grad()
def make_defence(model: VAE, z: Tensor, log_partition: float) -> Defence:
    """Decode draws ``z`` from the distribution of the latents, (m, D), for all rows."""
    return Defence(z, model.decoder(z), model.density.energy(z), log_partition)


class Noise(NamedTuple):
    """Noise from which the draws of a score are computed, the same for all rows.

    The score of a row therefore does not depend on other rows.
    """

    refined: Tensor  # (k, D), standard normal, for the Gaussians fitted to the rows
    own: Tensor  # (m, 1, D), or (m, n, D), standard normal, for the encoder's posteriors
    defence: Defence | None
    seed: int = 0  # of the moves of annealed chains

    def __len__(self) -> int:
        n_defence = 0 if self.defence is None else len(self.defence.z)
        return len(self.refined) + len(self.own) + n_defence


class EncodedRows(NamedTuple):
    """Rows, the outputs of the encoder, and the Gaussian fitted to each row."""

    x: Tensor  # (n, n_features)
    outputs: Tensor  # (n, k D)
    gaussians: RowGaussians | None  # of the noise; None where no draws come from them

    def at(self, rows: Tensor) -> EncodedRows:
        """Select rows."""
        gaussians = None if self.gaussians is None else self.gaussians.at(rows)
        return EncodedRows(self.x[rows], self.outputs[rows], gaussians)


def posterior_noise(rows: EncodedRows, noise: Noise, draws_at_once: int) -> Iterator[Tensor]:
    """Noise of all draws except the defensive ones, in parts of shape (m, 1 or n, D)."""
    if rows.gaussians is not None and len(noise.refined):
        for standard in noise.refined.split(draws_at_once):
            yield rows.gaussians.locate(standard)
    if len(noise.own):
        yield from noise.own.split(draws_at_once)


class Mixture:
    """The mixture of distributions from which the draws of some rows come.

    Parameters
    ----------
    rows : EncodedRows
    noise : Noise
    """

    def __init__(self, rows: EncodedRows, noise: Noise) -> None:
        self.gaussians, self.defence = rows.gaussians, noise.defence
        n_defence = 0 if noise.defence is None else len(noise.defence.z)
        counts = (len(noise.refined), len(noise.own), n_defence)
        total = sum(counts)
        self.log_shares = [math.log(n / total) if n else -math.inf for n in counts]

    def log_densities(self, noise: Tensor, log_posterior: Tensor, energy: Tensor) -> Tensor:
        """Log-densities of the three components including their weights, in nats.

        Parameters
        ----------
        noise : Tensor of shape (m, 1 or n, D)
            The noise from which the posterior would draw them.
        log_posterior, energy : Tensor of shape (m, n)
            ln q(z | x) of the encoder's posterior, and E(z).

        Returns
        -------
        Tensor of shape (3, m, n)
            For the fitted Gaussian, the encoder's posterior, and the distribution of the latents.
            Their logsumexp is the log-density of the mixture.
        """
        refined, own, law = self.log_shares
        values = log_posterior.new_full((3, *log_posterior.shape), -math.inf)
        if self.gaussians is not None:
            # The same change of variables leads from both distributions of the noise to those of z.
            standard = -0.5 * (noise.square() + LOG_2PI).sum(-1)
            values[0] = refined + log_posterior + self.gaussians.log_density(noise) - standard
        values[1] = own + log_posterior
        if self.defence is not None:
            values[2] = law - energy - self.defence.log_partition
        return values

    def log_ratio(self, noise: Tensor, log_posterior: Tensor, energy: Tensor) -> Tensor:
        """-E(z) minus the log-density of draws: (m, n)."""
        value = -energy - self.log_densities(noise, log_posterior, energy).logsumexp(0)
        # A draw with zero latent density has zero weight, also if its proposal density is zero.
        return value.masked_fill(energy == math.inf, -math.inf)


@torch.no_grad()
def log_weights(
    model: VAE, rows: EncodedRows, noise: Noise, draws_at_once: int
) -> tuple[Tensor, Tensor]:
    """Evaluate the importance weights of rows, some draws at a time.

    Parameters
    ----------
    model : VAE
    rows : EncodedRows
        n of them.
    noise : Noise
        Noise of m draws.
    draws_at_once : int

    Returns
    -------
    log_likelihood : Tensor of shape (m, n)
        ln p(x | z_k).
    log_ratio : Tensor of shape (m, n)
        -E(z_k) - ln q(z_k), where q is the mixture from which the draws come.
    """
    x, mixture = rows.x, Mixture(rows, noise)
    log_likelihood, log_ratio = x.new_empty((2, len(noise), len(x)))
    start = 0
    for part in posterior_noise(rows, noise, draws_at_once):
        chunk = slice(start, start := start + len(part))
        draws = model.draw(x, rows.outputs, part)
        log_likelihood[chunk] = draws.log_likelihood
        log_ratio[chunk] = mixture.log_ratio(part, draws.log_posterior, draws.energy)
    if noise.defence is not None:
        for z, decoded, energy in zip(
            *(values.split(draws_at_once) for values in noise.defence[:3]), strict=True
        ):
            chunk = slice(start, start := start + len(z))
            inverted, log_posterior = model.posterior.invert(z[:, None], rows.outputs)
            # Squares overflow if the posterior of an outlier is extremely far away. Its density at
            # the draws from the prior is then zero.
            log_posterior = log_posterior.nan_to_num(nan=-math.inf)
            log_likelihood[chunk] = model.likelihood.log_density(x, decoded[:, None])
            log_ratio[chunk] = mixture.log_ratio(inverted, log_posterior, energy[:, None])
    return log_likelihood, log_ratio


def importance_estimate(log_likelihood: Tensor, log_ratio: Tensor, log_z: float) -> Tensor:
    """Normalised importance sampling: (n_draws, n) twice -> (n,)."""
    return log_mean_exp(log_likelihood + log_ratio) - log_z


def self_normalized_estimate(log_likelihood: Tensor, log_ratio: Tensor, log_z: float) -> Tensor:
    """Eq. 5 of the paper, without ln Z: (n_draws, n) twice -> (n,). It is usually too high."""
    return (log_likelihood + log_ratio).logsumexp(0) - log_ratio.logsumexp(0)


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
    """Mean importance-weighted bound of rows with the best available ln Z, in nats.

    Used to monitor training for all objectives, because the paper's estimate can increase while the
    model gets worse. The noise is the same in each call, so that epochs can be compared.
    """
    generator = make_generator(seed, x.device)
    # In float64: in float32, the sum over a million rows would lose digits.
    total = x.new_zeros((), dtype=torch.float64)
    weights = x.new_ones(len(x)) if weight is None else weight
    for rows, of_rows in zip(x.split(rows_at_once), weights.split(rows_at_once), strict=True):
        rows = model.likelihood.training_rows(rows, generator)
        own = standard_normal((n_draws, rows.shape[0], model.density.n_latent), generator, x)
        encoded = EncodedRows(rows, model.encoder(rows), None)
        noise = Noise(own.new_empty((0, own.shape[-1])), own, None)
        log_likelihood, log_ratio = log_weights(model, encoded, noise, draws_at_once)
        total += (log_mean_exp(log_likelihood + log_ratio) * of_rows).sum(dtype=torch.float64)
    return total.item() / weights.sum(dtype=torch.float64).item() - log_partition
