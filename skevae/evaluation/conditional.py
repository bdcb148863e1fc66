r"""What the weights of a score say about one part of a row given another.

Draws z_k of a row with weights w_k stand for p(z | x_o), x_o the observed entries: resampled by
their weights they are draws from it (Rubin 1987), and since the entries are independent given z,

.. math::
    p(x_j \mid x_{o \setminus j}) = \frac{\sum_k w_k}{\sum_k w_k / p(x_j \mid z_k)}
"""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import Defence, log_weights
from skevae.vae import VAE


@torch.no_grad()
def resampled_latents(
    model: VAE,
    x: Tensor,
    noise: Tensor,
    draws_at_once: int,
    defence: Defence | None,
    *,
    positions: Tensor,
) -> tuple[Tensor, Tensor]:
    """Draw z from p(z | x_o) by importance resampling.

    Parameters
    ----------
    model, x, noise, draws_at_once, defence
        See `skevae.evaluation.importance.log_weights`; the noise is shared among rows.
    positions : Tensor of shape (n, m)
        In [0, 1): where the cumulative weights of each row are looked up.

    Returns
    -------
    z : Tensor of shape (m, n, D)
    effective_sample_size : Tensor of shape (n,)
    """
    total = torch.add(*log_weights(model, x, noise, draws_at_once, defence))
    cumulative = total.softmax(0).cumsum(0).mT.contiguous()
    chosen = torch.searchsorted(cumulative, positions.contiguous()).clamp(max=len(total) - 1).mT
    n_posterior = noise.shape[0]
    own = noise[chosen.clamp(max=n_posterior - 1), 0]
    z, _ = model.posterior.draw(model.encoder(x), own)
    if defence is not None:
        from_law = defence.z[(chosen - n_posterior).clamp(min=0)]
        z = torch.where((chosen >= n_posterior)[..., None], from_law, z)
    return z, DIAGNOSTICS["effective_sample_size"](total)


@torch.no_grad()
def feature_scores(
    model: VAE, x: Tensor, noise: Tensor, draws_at_once: int, defence: Defence | None
) -> Tensor:
    """ln p(x_j | x_o without j) of each entry, in nats; 0 for missing ones: (n, n_features)."""
    total = torch.add(*log_weights(model, x, noise, draws_at_once, defence))
    outputs = model.encoder(x)
    without = x.new_full(x.shape, -torch.inf)
    n_posterior = noise.shape[0]
    for part in torch.arange(len(total), device=x.device).split(draws_at_once):
        pieces = []
        if len(own := part[part < n_posterior]):
            z, _ = model.posterior.draw(outputs, noise[own])
            pieces.append(model.decoder(z))
        if defence is not None and len(shared := part[part >= n_posterior] - n_posterior):
            pieces.append(defence.outputs[shared, None].expand(-1, len(x), -1))
        values = model.likelihood.feature_log_density(x, torch.cat(pieces))
        log_weight = total[part, :, None]
        # A draw of no weight has none without one of the entries either.
        rest = torch.where(log_weight == -torch.inf, log_weight, log_weight - values)
        without = torch.logaddexp(without, rest.logsumexp(0))
    return total.logsumexp(0)[:, None] - without
