"""Energy functions: their values and conditional distributions.

An energy is a pure function of its argument. It has no random generator, estimates nothing and does
not depend on a batch size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from skevae.utils.linear import linear

LOG_2PI = math.log(2 * math.pi)


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x). Unlike torch's softplus, it keeps e^-x above 20, which matters in float64."""
    return F.softplus(x, threshold=40.0)


class SmoothEnergy(Protocol):
    """Interface of energies for Langevin steps."""

    @property
    def variance(self) -> Tensor:
        """Approximate variance of each dimension, (D,), which scales the steps."""

    def __call__(self, z: Tensor) -> Tensor:
        """Energy in nats of each row: (..., D) -> (...)."""

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each row and its gradient: (n, D) -> (n,), (n, D)."""


@dataclass(frozen=True)
class GaussianBernoulliEnergy:
    r"""Energy of a Gaussian-Bernoulli restricted Boltzmann machine with hidden units summed out.

    .. math::
        E(z) = \tfrac12 \sum_i \frac{(z_i - \mu_i)^2}{\sigma_i^2}
               - \sum_j \mathrm{softplus}\Big(b_j + \sum_i W_{ij} \frac{z_i}{\sigma_i^2}\Big)

    This is eq. 4 of "Variational Inference with Unnormalized Priors", in the parametrisation of
    Liao et al. (2022), "Gaussian-Bernoulli RBMs without tears". Both conditionals are closed-form:

    .. math::
        p(h_j = 1 \mid z) = \mathrm{sigmoid}(b_j + W_{\cdot j} \cdot z / \sigma^2), \qquad
        p(z \mid h) = N(\mu + W h, \mathrm{diag}(\sigma^2)).

    Parameters
    ----------
    weight : Tensor of shape (n_visible, n_hidden)
        W.
    hidden_bias : Tensor of shape (n_hidden,)
        b.
    visible_mean : Tensor of shape (n_visible,)
        mu.
    variance : Tensor of shape (n_visible,)
        sigma squared, positive.
    """

    weight: Tensor
    hidden_bias: Tensor
    visible_mean: Tensor
    variance: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Energy in nats of each row: (..., n_visible) -> (...)."""
        quadratic = ((z - self.visible_mean).square() / self.variance).sum(-1)
        return 0.5 * quadratic - softplus(self.hidden_logits(z)).sum(-1)

    def mean(self, z: Tensor) -> Tensor:
        """Mean energy of constant rows, (n, n_visible), as a scalar.

        Equal to the average of `__call__`, but with a closed-form gradient: one matrix product and
        a few passes over the parameters instead of passes over the rows.
        """
        parameters = (self.weight, self.hidden_bias, self.visible_mean, self.variance)
        return _MeanEnergy.apply(z.detach(), *parameters)

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each row, and (z - mu - W p(h = 1 | z)) / sigma^2: (n, D) -> (n,), (n, D)."""
        logits, scaled = self.hidden_logits(z), (z - self.visible_mean) / self.variance
        value = 0.5 * (scaled * (z - self.visible_mean)).sum(-1) - softplus(logits).sum(-1)
        return value, scaled - linear(logits.sigmoid(), self.weight) / self.variance

    def hidden_logits(self, z: Tensor) -> Tensor:
        """Log-odds of h_j = 1 given z: (..., n_visible) -> (..., n_hidden)."""
        # A product, because its gradient takes fewer passes over the weights than that of a
        # quotient.
        scaled = self.weight * self.variance.reciprocal()[:, None]
        return linear(z, scaled.mT, self.hidden_bias)

    def conditional_mean(self, h: Tensor) -> Tensor:
        """Mean of z given h: (..., n_hidden) -> (..., n_visible)."""
        return linear(h, self.weight, self.visible_mean)

    def hidden_machine(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Integrate z out: the distribution of h is a Boltzmann machine.

        .. math::
            p(h) \propto \exp(a \cdot h + \tfrac12 h^\top J h), \quad
            J = W^\top \Sigma^{-1} W, \quad a = b + W^\top \Sigma^{-1} \mu

        Returns
        -------
        bias : Tensor of shape (n_hidden,)
            a.
        coupling : Tensor of shape (n_hidden, n_hidden)
            J, symmetric.
        log_volume : Tensor, scalar
            ln of the Gaussian integral over z, D/2 ln 2 pi + sum_i ln sigma_i. The log-partition
            function is this plus that of the Boltzmann machine.
        """
        scaled = self.weight / self.variance[:, None]
        bias = self.hidden_bias + self.visible_mean @ scaled
        log_volume = 0.5 * (self.variance.log() + LOG_2PI).sum()
        return bias, self.weight.mT @ scaled, log_volume

    def to(self, dtype: torch.dtype) -> GaussianBernoulliEnergy:
        """Return the same energy with its parameters in ``dtype``."""
        return GaussianBernoulliEnergy(
            self.weight.to(dtype),
            self.hidden_bias.to(dtype),
            self.visible_mean.to(dtype),
            self.variance.to(dtype),
        )


class _MeanEnergy(torch.autograd.Function):
    """Mean energy of rows z, and its gradient from their hidden probabilities and moments."""

    @staticmethod
    def forward(ctx, z, weight, hidden_bias, visible_mean, variance):
        precision = variance.reciprocal()
        logits = linear(z, (weight * precision[:, None]).mT, hidden_bias)
        square = (z - visible_mean).square().mean(0)
        ctx.save_for_backward(z, logits, weight, visible_mean, precision, square)
        return 0.5 * (square * precision).sum() - softplus(logits).sum() / z.shape[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        z, logits, weight, visible_mean, precision, square = ctx.saved_tensors
        probability = logits.sigmoid()
        by_scaled = linear(z.mT, probability.mT).mul_(-grad / z.shape[0])
        by_precision = 0.5 * grad * square + (by_scaled * weight).sum(1)
        return (
            None,
            by_scaled.mul_(precision[:, None]),
            -grad * probability.mean(0),
            grad * (visible_mean - z.mean(0)) * precision,
            -by_precision * precision.square(),
        )


@dataclass(frozen=True)
class AnnealingPath:
    r"""Geometric path from a diagonal Gaussian with free hidden units to an RBM.

    .. math::
        \ln f_\beta(z) = -\frac{1-\beta}{2} \sum_i \frac{(z_i - m_i)^2}{v_i}
                         -\frac{\beta}{2} \sum_i \frac{(z_i - \mu_i)^2}{\sigma_i^2}
                         + \sum_j \mathrm{softplus}(\beta (W_{\cdot j} \cdot z/\sigma^2 + b_j))

    (Salakhutdinov & Murray 2008, with a Gaussian base.) Up to a constant, every point of the path
    is a Gaussian-Bernoulli energy, so the same block Gibbs sampler can be used on the whole path.

    Parameters
    ----------
    target : GaussianBernoulliEnergy
        The energy at beta = 1.
    base_mean, base_variance : Tensor of shape (n_visible,)
        m and v, the Gaussian at beta = 0.
    """

    target: GaussianBernoulliEnergy
    base_mean: Tensor
    base_variance: Tensor

    def log_increment(self, z: Tensor, beta_from: float, beta_to: float) -> Tensor:
        """ln f_to(z) - ln f_from(z) for each row: (n, n_visible) -> (n,)."""
        logits = self.target.hidden_logits(z)
        base = ((z - self.base_mean).square() / self.base_variance).sum(-1)
        target = ((z - self.target.visible_mean).square() / self.target.variance).sum(-1)
        hidden = (softplus(beta_to * logits) - softplus(beta_from * logits)).sum(-1)
        return 0.5 * (beta_to - beta_from) * (base - target) + hidden

    def at(self, beta: float) -> GaussianBernoulliEnergy:
        """Return the energy at ``beta``, whose conditionals are those of f_beta."""
        target = self.target
        precision = (1 - beta) / self.base_variance + beta / target.variance
        variance = precision.reciprocal()
        base_term = (1 - beta) * self.base_mean / self.base_variance
        return GaussianBernoulliEnergy(
            weight=beta * target.weight * (variance / target.variance)[:, None],
            hidden_bias=beta * target.hidden_bias,
            visible_mean=variance * (base_term + beta * target.visible_mean / target.variance),
            variance=variance,
        )

    def log_base_partition(self) -> Tensor:
        """Ln Z at beta = 0: D/2 ln 2 pi + 1/2 sum ln v + H ln 2, scalar."""
        n_hidden = self.target.hidden_bias.numel()
        log_volume = 0.5 * (self.base_variance.log() + LOG_2PI).sum()
        return log_volume + n_hidden * math.log(2.0)


@dataclass(frozen=True)
class CorrectedGaussianEnergy:
    r"""Energy of a diagonal Gaussian plus any smooth function.

    .. math::
        E(z) = \tfrac12 \sum_i \frac{(z_i - \mu_i)^2}{\sigma_i^2} + s f(z)

    Parameters
    ----------
    mean, variance : Tensor of shape (D,)
        mu and sigma squared.
    correction : callable (..., D) -> (...)
        f, in nats. It must be bounded; otherwise exp(-E) may not be integrable.
    strength : float
        s.
    """

    mean: Tensor
    variance: Tensor
    correction: Callable[[Tensor], Tensor]
    strength: float = 1.0

    def _quadratic(self, z: Tensor) -> Tensor:
        return 0.5 * ((z - self.mean).square() / self.variance).sum(-1)

    def __call__(self, z: Tensor) -> Tensor:
        """Energy in nats of each row: (..., D) -> (...)."""
        return self._quadratic(z) + self.strength * self.correction(z)

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Energy of each row and its gradient, by autograd: (n, D) -> (n,), (n, D)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            correction = self.correction(z)
            (slope,) = torch.autograd.grad(correction.sum(), z)
        z, correction = z.detach(), correction.detach()
        gradient = (z - self.mean) / self.variance + self.strength * slope
        return self._quadratic(z) + self.strength * correction, gradient


@dataclass(frozen=True)
class GeometricPath:
    r"""Geometric path from a diagonal Gaussian to a corrected one.

    .. math::
        \ln f_\beta(z) = -\frac{1-\beta}{2} \sum_i \frac{(z_i - m_i)^2}{v_i} - \beta E(z)

    Up to a constant, every point of the path is a `CorrectedGaussianEnergy`.

    Parameters
    ----------
    target : CorrectedGaussianEnergy
        E, the energy at beta = 1.
    base_mean, base_variance : Tensor of shape (D,)
        m and v, the Gaussian at beta = 0.
    """

    target: CorrectedGaussianEnergy
    base_mean: Tensor
    base_variance: Tensor

    def log_increment(self, z: Tensor, beta_from: float, beta_to: float) -> Tensor:
        """ln f_to(z) - ln f_from(z) for each row: (n, D) -> (n,)."""
        base = 0.5 * ((z - self.base_mean).square() / self.base_variance).sum(-1)
        return (beta_to - beta_from) * (base - self.target(z))

    def at(self, beta: float) -> CorrectedGaussianEnergy:
        """Return the energy at ``beta``, without a constant."""
        target = self.target
        variance = ((1 - beta) / self.base_variance + beta / target.variance).reciprocal()
        base_term = (1 - beta) * self.base_mean / self.base_variance
        mean = variance * (base_term + beta * target.mean / target.variance)
        return CorrectedGaussianEnergy(mean, variance, target.correction, beta * target.strength)

    def log_base_partition(self) -> Tensor:
        """Ln Z at beta = 0: D/2 ln 2 pi + 1/2 sum ln v, scalar."""
        return 0.5 * (self.base_variance.log() + LOG_2PI).sum()


def pairwise_normal_log_density(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(z_i; mean_j, diag(scale_j^2)) for all pairs: (m, D), (n, D), (n, D) -> (m, n)."""
    # In float64: squares of distant, narrow Gaussians cancel, and float32 is not precise enough.
    precision = scale.double().square().reciprocal()
    weighted = mean * precision
    constant = (mean * weighted + 2 * scale.log() + LOG_2PI).sum(-1)
    z64 = z.double()
    pairs = z64 @ weighted.mT - 0.5 * (z64.square() @ precision.mT + constant)
    return pairs.to(z.dtype)


def standard_normal_energy(z: Tensor) -> Tensor:
    """Energy of N(0, I), half of the squared norm: (..., n_visible) -> (...)."""
    return 0.5 * z.square().sum(-1)
