"""Bernoulli likelihood: binary features, or probabilities from which binary rows are drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skevae.energies import softplus
from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.utils.memory import pieces
from skevae.utils.random import binary

# Probabilities are rounded to multiples of 2^-20 before they are hashed and compared, so that a
# rounding error of float32 does not change the binary row.
RESOLUTION = 2**20

# `Bernoulli.free` moves binary rows this far inside (0, 1), where the sigmoid has a slope.
MARGIN = 0.1

# Odd constants and shifts of the finaliser of SplitMix64 (Steele, Lea & Flood 2014).
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


class Bernoulli(Likelihood):
    """p(x | z) = prod_i Bernoulli(x_i; sigmoid(outputs_i)), a probability mass on {0, 1}^n."""

    standardizes = False

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, n_outputs=n_features)
        self.rows_are_binary = False

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return x * outputs - softplus(outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return binary(outputs.sigmoid(), generator)

    def check_rows(self, X: np.ndarray) -> None:
        # Only observed entries are checked; a comparison with nan is false.
        low, high = np.fmin.reduce(X, axis=None), np.fmax.reduce(X, axis=None)
        if low < 0 or high > 1:
            raise ValueError(
                f"likelihood='bernoulli' needs X in [0, 1], got values from {low:g} to {high:g}. "
                "Scale X, for example by MinMaxScaler(clip=True), or use likelihood='gaussian'."
            )

    def prepare(self, X: np.ndarray) -> None:
        self.rows_are_binary = all(
            bool((np.isin(piece, (0, 1)) | np.isnan(piece)).all()) for piece in pieces(X)
        )

    def training_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a binary row from each row of probabilities (dynamic binarisation)."""
        return x if self.rows_are_binary else binary(x, generator)

    def scored_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return binarize(x, generator)

    def free(self, x: Tensor) -> Tensor:
        return x.clamp(MARGIN, 1 - MARGIN).logit()

    def bound(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()


class BernoulliLikelihood(LikelihoodFamily):
    """Bernoulli features, for X in [0, 1].

    Values strictly between 0 and 1 are probabilities. Training draws a new binary row from them
    each time the row is used. Scoring uses one binary row, drawn by a fixed function of the row.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skevae import EnergyVAE
    >>> X = load_digits().data[:100] / 16
    >>> vae = EnergyVAE(4, likelihood="bernoulli", max_iter=2, random_state=0).fit(X)
    >>> sorted(set(vae.sample(5).ravel().tolist()))
    [0.0, 1.0]
    """

    bins_integers = False

    def make_likelihood(self, n_features: int) -> Bernoulli:
        return Bernoulli(n_features)


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    return word - 2**64 if word >= 2**63 else word


def _mixed(code: Tensor) -> Tensor:
    """Mix the bits of integers, so that each bit depends on all bits: int64 -> int64."""
    for shift, factor in MIX:
        # A logical shift; torch's shift keeps the sign.
        code = (code ^ ((code >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    return code


def binarize(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn probabilities into binary rows, each a fixed function of the row itself.

    Scores must be deterministic and independent of the other rows, so the uniform numbers come
    from the row: its content is hashed to an integer k, and the threshold of feature j is
    (u_j + k c_j) modulo 1 with u and c drawn once. For each row the thresholds are uniform, and
    over different rows they fill the unit cube evenly (Weyl 1916).

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        In [0, 1]; zeros and ones stay as they are. Rounded to multiples of 2^-20, so that
        float32 and float64 give the same rows.
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
    steps = (x.double() * RESOLUTION).round().long()
    # In integers, whose sum (modulo 2^64) does not depend on the order of summation.
    hashed = _mixed((steps * weight.to(x.device)).sum(-1, keepdim=True))
    code = ((hashed >> 40) & (2**20 - 1)).double()
    return ((offset + code * multiplier).remainder(1.0) < steps / RESOLUTION).to(x.dtype)
