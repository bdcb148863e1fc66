"""Draws of the latents, with the terms of the bounds."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LatentDraws(NamedTuple):
    """Terms of the bounds, for each draw z ~ q(z | x) and each row x; logarithms in nats."""

    log_likelihood: Tensor  # ln p(x | z), (n_draws, n)
    energy: Tensor  # E(z), (n_draws, n)
    log_posterior: Tensor  # ln q(z | x), (n_draws, n)
    z: Tensor  # (n_draws, n, D)
    posterior_outputs: Tensor  # the encoder's, (n, k D)
