r"""Bounds of a log-likelihood from both sides, for rows that the model itself has made.

The latents z of such a row are an exact draw from p(z | x), which no other row has. One of the
draws of its score is replaced by it. Where that draw's law is chosen with the probability that the
mixture of laws gives it at z, the K draws together are from the law whose density is that of the
draws of the score times :math:`\hat p(x) / p(x)`, with :math:`\hat p` the mean weight. Jensen's
inequality then holds in the other direction,

.. math::
    E[\ln \hat p(x)] \le \ln p(x) \le E'[\ln \hat p(x)],

and the difference bounds what the score falls short by (bidirectional Monte Carlo without
annealing; Grosse et al. 2015, Sobolev & Vetrov 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.evaluation.importance import EncodedRows, Mixture, Noise, log_weights
from skevae.utils.log_mean import log_mean_exp
from skevae.vae import VAE


@torch.no_grad()
def two_sided(
    model: VAE,
    rows: EncodedRows,
    noise: Noise,
    draws_at_once: int,
    z: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Bound ln p(x) + ln Z from below and from above, both in expectation.

    Parameters
    ----------
    model, rows, noise, draws_at_once
        See `skevae.evaluation.importance.log_weights`. The draws of each law are independent.
    z : Tensor of shape (n, D)
        The latents that the rows were made from.
    generator : torch.Generator
        On the CPU, of the choice of the draw that is replaced.

    Returns
    -------
    lower, upper : Tensor of shape (n,)
        In nats.
    """
    mixture = Mixture(rows, noise)
    weights = torch.add(*log_weights(model, rows, noise, draws_at_once))
    lower = log_mean_exp(weights)

    inverted, log_posterior = model.posterior.invert(z[None], rows.outputs)
    energy = model.density.energy(z)[None]
    log_likelihood = model.likelihood.log_density(rows.x, model.decoder(z[None]))
    exact = log_likelihood + mixture.log_ratio(inverted, log_posterior, energy)

    shares = mixture.log_densities(inverted, log_posterior, energy)[:, 0].softmax(0)
    uniform = torch.rand(len(z), generator=generator, dtype=torch.float64).to(shares)
    law = (uniform > shares.cumsum(0)[:-1]).sum(0)
    # Draws of one law are exchangeable, so that its first one will do.
    first = torch.tensor([0, len(noise.refined), len(noise.refined) + len(noise.own)])
    return lower, log_mean_exp(weights.scatter(0, first.to(law)[law][None], exact))
