"""The aggregated posterior: its moments and draws."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from skevae.utils.random import standard_normal
from skevae.vae import VAE


class Rows(Protocol):
    """Rows as a tensor, or an object that yields tensors of them in order."""

    dtype: torch.dtype
    device: Any

    @property
    def shape(self) -> Any: ...

    def split(self, n_at_once: int, /) -> Iterable[Tensor]: ...


@torch.no_grad()
def aggregated_moments(model: VAE, x: Rows, rows_at_once: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each latent under the aggregated posterior of rows: (D,) each."""
    # In float64: a mean square minus a squared mean loses the digits of a small variance, and all
    # of them far from zero. The variance of the posteriors is added to the result.
    total, squares, within = torch.zeros(
        (3, model.density.n_latent), dtype=torch.float64, device=x.device
    )
    for rows in x.split(rows_at_once):
        outputs = model.encoder(rows)
        mean = model.posterior.mean(outputs).double()
        total += mean.sum(0)
        squares += mean.square().sum(0)
        within += model.posterior.variance(outputs).sum(0)
    mean = total / x.shape[0]
    variance = (squares / x.shape[0] - mean.square()).clamp(min=0) + within / x.shape[0]
    return mean.to(x.dtype), variance.to(x.dtype)


@torch.no_grad()
def aggregated_draws(
    model: VAE,
    x: Rows,
    n_draws: int,
    *,
    rows_at_once: int,
    generator: torch.Generator,
) -> Tensor:
    """Draws from the aggregated posterior: ``n_draws`` z ~ q(z | x) per row, (n_draws n, D)."""
    parts = []
    for _ in range(n_draws):
        for rows in x.split(rows_at_once):
            rows = model.likelihood.training_rows(rows, generator)
            noise = standard_normal((1, rows.shape[0], model.density.n_latent), generator, rows)
            parts.append(model.posterior.draw(model.encoder(rows), noise)[0][0])
    return torch.cat(parts)
