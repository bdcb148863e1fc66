r"""Conditional distributions of a part of a row given another, from the weights of a score.

Draws z_k of a row with weights w_k represent p(z | x_o), where x_o are the observed entries. If
they are resampled by their weights, they are draws from it (Rubin 1987). Since the entries are
independent given z,

.. math::
    p(x_j \mid x_{o \setminus j}) = \frac{\sum_k w_k}{\sum_k w_k / p(x_j \mid z_k)}
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import EncodedRows, Noise, log_weights, posterior_noise
from skevae.vae import VAE


@torch.no_grad()
def resampled_latents(
    model: VAE, rows: EncodedRows, noise: Noise, draws_at_once: int, *, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw z from p(z | x_o) by importance resampling.

    Parameters
    ----------
    model, rows, noise, draws_at_once
        See `skevae.evaluation.importance.log_weights`; the noise is shared among rows.
    positions : Tensor of shape (n, m)
        In [0, 1): positions in the cumulative weights of each row.

    Returns
    -------
    z : Tensor of shape (m, n, D)
    effective_sample_size : Tensor of shape (n,)
    """
    total = torch.add(*log_weights(model, rows, noise, draws_at_once))
    cumulative = total.softmax(0).cumsum(0).mT.contiguous()
    chosen = torch.searchsorted(cumulative, positions.contiguous()).clamp(max=len(total) - 1).mT
    standard = torch.cat([noise.refined, noise.own[:, 0]])
    own = standard[chosen.clamp(max=len(standard) - 1)]
    if rows.gaussians is not None:
        fitted = rows.gaussians.locate_each(own)
        own = torch.where((chosen < len(noise.refined))[..., None], fitted, own)
    z, _ = model.posterior.draw(rows.outputs, own)
    if noise.defence is not None:
        from_law = noise.defence.z[(chosen - len(standard)).clamp(min=0)]
        z = torch.where((chosen >= len(standard))[..., None], from_law, z)
    return z, DIAGNOSTICS["effective_sample_size"](total)


@torch.no_grad()
def feature_scores(model: VAE, rows: EncodedRows, noise: Noise, draws_at_once: int) -> Tensor:
    """ln p(x_j | x_o without j) of each entry, in nats; 0 for missing ones: (n, n_features)."""
    x = rows.x
    total = torch.add(*log_weights(model, rows, noise, draws_at_once))
    without = x.new_full(x.shape, -torch.inf)

    def decoded() -> Iterator[Tensor]:
        for part in posterior_noise(rows, noise, draws_at_once):
            yield model.decoder(model.posterior.draw(rows.outputs, part)[0])
        if noise.defence is not None:
            for outputs in noise.defence.outputs.split(draws_at_once):
                yield outputs[:, None]

    start = 0
    for outputs in decoded():
        log_weight = total[start : (start := start + len(outputs)), :, None]
        values = model.likelihood.feature_log_density(x, outputs)
        # A draw with zero weight also has zero weight without one of the entries.
        rest = torch.where(log_weight == -torch.inf, log_weight, log_weight - values)
        without = torch.logaddexp(without, rest.logsumexp(0))
    return total.logsumexp(0)[:, None] - without
