r"""Lower and upper bounds of a log-likelihood, for rows sampled from the model.

The latents z that generated such a row are an exact draw from p(z | x), which is not available for
other rows. One of the draws of its score is replaced by z. The draw to be replaced is chosen by its
component of the proposal mixture, with the posterior probability of the component at z. The joint
density of the K draws is then that of the draws of the score times :math:`\hat p(x) / p(x)`, where
:math:`\hat p` is the mean weight. Jensen's inequality then holds in the other direction,

.. math::
    E[\ln \hat p(x)] \le \ln p(x) \le E'[\ln \hat p(x)],

and the difference is an upper bound on how much the score is too low (bidirectional Monte Carlo
without annealing; Grosse et al. 2015, Sobolev & Vetrov 2019).
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
    """Bound ln p(x) + ln Z from below and above, both in expectation.

    Parameters
    ----------
    model, rows, noise, draws_at_once
        See `skevae.evaluation.importance.log_weights`. The draws of each component are independent.
    z : Tensor of shape (n, D)
        The latents from which the rows were sampled.
    generator : torch.Generator
        Generator, on the CPU, for the choice of the draw to be replaced.

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
    # Draws of one component are exchangeable, so the first one can be replaced.
    first = torch.tensor([0, len(noise.refined), len(noise.refined) + len(noise.own)])
    return lower, log_mean_exp(weights.scatter(0, first.to(law)[law][None], exact))
