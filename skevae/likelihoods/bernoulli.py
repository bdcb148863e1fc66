"""Binary features, and probabilities as binary rows."""

from __future__ import annotations

import torch
from torch import Tensor

from skevae.energies import softplus
from skevae.likelihoods.base import Likelihood
from skevae.utils.random import binary


class Bernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i; sigmoid(outputs_i)), a probability mass on {0, 1}^n."""

    outputs_per_feature = 1
    is_continuous = False

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return (x * outputs - softplus(outputs)).sum(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return binary(outputs.sigmoid(), generator)


def binarize(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn probabilities into binary rows, each a fixed function of the row itself.

    Scores have to be deterministic and may not depend on which rows stand beside a row, so the
    uniform numbers come from the row: its content is hashed to an integer k, and the threshold of
    feature j is (u_j + k c_j) modulo 1 with u and c drawn once. For each row the thresholds are
    uniform, and over rows that differ they fill the unit cube evenly (Weyl 1916).

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In [0, 1]; zeros and ones stay what they are.
    generator : torch.Generator
        On the CPU. The same state gives the same function.

    Returns
    -------
    Tensor of shape (n, n_features)
        Zeros and ones.
    """
    n_features = x.shape[1]
    uniform = torch.rand((2, n_features), generator=generator, dtype=torch.float64)
    weight = 2 * torch.randint(2**62, (n_features,), generator=generator) + 1
    offset, multiplier = uniform.to(x.device)
    # In integers, whose sum (modulo 2^64) is the same in whatever order a device takes it.
    hashed = ((x.double() * 2**52).long() * weight.to(x.device)).sum(-1, keepdim=True)
    code = ((hashed >> 40) & (2**20 - 1)).double()
    return ((offset + code * multiplier).remainder(1.0) < x).to(x.dtype)
