"""Likelihoods p(x | z): what the decoder's outputs mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from skevae._random import binary, standard_normal
from skevae.energies import LOG_2PI, softplus
from skevae.networks import positive

LOG2_E = math.log2(math.e)
# 2^-100 of the largest term is lost in rounding, and still far from float32's subnormal numbers.
MIN_EXPONENT = -100.0


def _normal_log_density(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(x; mean, diag(scale^2)): (..., n_features) -> (...)."""
    per_feature = -0.5 * ((x - mean) / scale).square() - scale.log()
    return per_feature.sum(-1) - 0.5 * x.shape[-1] * LOG_2PI


class _MixtureLogDensity(torch.autograd.Function):
    """ln p(x) under mixtures of Gaussians, a density each feature, summed over features.

    ``x`` is (..., n_features) and the rest (K, ..., n_features): components come first, where
    sums over them are fastest. The gradient is Bishop's (1994): components answer by their share in
    the density. It is made along with the value, in a few passes.
    """

    @staticmethod
    def forward(ctx, x, logits, mean, scale):
        precision = scale.reciprocal()
        deviation = (x - mean).mul_(precision)
        exponent = deviation.square().mul_(-0.5).add_(logits)
        share, log_density = _normalized_exp(exponent, precision)
        weight, log_total = _normalized_exp(logits)
        log_density -= log_total
        if any(ctx.needs_input_grad):
            pull = (share * deviation).mul_(precision)
            spread = (pull * deviation).addcmul_(share, precision, value=-1)
            ctx.save_for_backward(share.sub_(weight), pull, spread)
            ctx.shape = x.shape
        return log_density.sum(-1) - 0.5 * x.shape[-1] * LOG_2PI

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        by_logits, by_mean, by_scale = (slope * grad[..., None] for slope in ctx.saved_tensors)
        by_x = -by_mean.sum(0).sum_to_size(ctx.shape) if ctx.needs_input_grad[0] else None
        return by_x, by_logits, by_mean, by_scale


def _normalized_exp(exponent: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Softmax along the first dimension of exp(exponent) times ``factor``, and ln of its sum."""
    largest = exponent.amax(0)
    # Finite, or nothing would be left of what is minus infinity everywhere.
    terms = exponent - largest.clamp(min=torch.finfo(largest.dtype).min)
    # To base 2, in which torch is fastest, and no lower than where the slow subnormals begin.
    terms = terms.mul_(LOG2_E).clamp_(min=MIN_EXPONENT).exp2_()
    if factor is not None:
        terms *= factor
    total = terms.sum(0)
    return terms.div_(total), largest.add_(total.log())


class Likelihood(nn.Module):
    """Base of the likelihoods. The decoder returns k ``outputs`` for each feature.

    Parameters
    ----------
    n_features : int
    min_scale : float
        Lower bound of every scale, in standard deviations of the feature. Without one the density
        of a discrete column has no maximum.

    Attributes
    ----------
    outputs_per_feature : int
        k.
    is_continuous : bool
        Whether it is a density, which changes with the scale of X, or a probability mass.
    """

    outputs_per_feature: int
    is_continuous: bool

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__()
        self.min_scale = min_scale

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        """ln p(x | z) in nats: (n, n_features), (..., n, k n_features) -> (..., n)."""
        raise NotImplementedError

    def mean(self, outputs: Tensor) -> Tensor:
        """E[x | z]: (..., k n_features) -> (..., n_features)."""
        raise NotImplementedError

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x given z: (..., k n_features) -> (..., n_features)."""
        raise NotImplementedError


class Gaussian(Likelihood):
    """p(x | z) = N(mean(z), diag(scale^2)), one learned scale for each feature."""

    outputs_per_feature = 1
    is_continuous = True

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__(n_features, min_scale)
        self.raw_scale = nn.Parameter(torch.zeros(n_features))

    def _scale(self) -> Tensor:
        return self.min_scale + positive(self.raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return _normal_log_density(x, outputs, self._scale())

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return outputs + self._scale() * standard_normal(outputs.shape, generator, outputs)


class RowwiseGaussian(Likelihood):
    """p(x | z) = N(mean(z), diag(scale(z)^2)): the decoder predicts the scale as well."""

    outputs_per_feature = 2
    is_continuous = True

    def _moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_scale = outputs.chunk(2, dim=-1)
        return mean, self.min_scale + positive(raw_scale)

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return _normal_log_density(x, *self._moments(outputs))

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs.chunk(2, dim=-1)[0]

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        mean, scale = self._moments(outputs)
        return mean + scale * standard_normal(mean.shape, generator, mean)


class GaussianMixture(Likelihood):
    r"""p(x | z) = prod_i sum_k pi_ik(z) N(x_i; mean_ik(z), scale_ik(z)^2), all of it decoded.

    Given z every feature has a small mixture of its own (Bishop 1994, "Mixture density networks"),
    so that the latents need not spell out what is no dependence between features: columns that are
    nearly discrete, bounded, skewed or heavy-tailed.
    """

    # Two are enough for a decoder to make of them what it needs; with five, which do better on
    # discrete columns, small data sets are overfitted.
    n_components = 2
    outputs_per_feature = 3 * n_components
    is_continuous = True

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__(n_features, min_scale)
        self.n_features = n_features
        levels = (torch.arange(self.n_components, dtype=torch.float64) + 0.5) / self.n_components
        # Untrained, the components stand side by side and together have the moments of N(0, 1).
        quantiles = torch.special.ndtri(levels)
        self.initial_scale = math.sqrt(1 - quantiles.square().mean().item())
        self.initial_mean: Tensor
        self.register_buffer("initial_mean", quantiles.float()[:, None])

    def _components(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of pi, mean and scale: (..., 3 K n_features) -> (K, ..., n_features) each."""
        shape = (3, self.n_components, self.n_features)
        parts = outputs.unflatten(-1, shape).movedim((-3, -2), (0, 1))
        logits, mean, raw_scale = parts.contiguous()
        initial_mean = self.initial_mean.view(-1, *[1] * (mean.ndim - 1))
        scale = self.min_scale + self.initial_scale * positive(raw_scale)
        return logits, mean + initial_mean, scale

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return _MixtureLogDensity.apply(x, *self._components(outputs))

    def mean(self, outputs: Tensor) -> Tensor:
        logits, mean, _ = self._components(outputs)
        return (logits.softmax(0) * mean).sum(0)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        logits, mean, scale = self._components(outputs)
        below = logits.softmax(0).cumsum(0)[:-1]
        uniform = torch.rand(
            mean.shape[1:], generator=generator, dtype=mean.dtype, device=mean.device
        )
        chosen = (uniform > below).sum(0, keepdim=True)
        mean, scale = (values.gather(0, chosen).squeeze(0) for values in (mean, scale))
        return mean + scale * standard_normal(mean.shape, generator, mean)


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


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "gaussian-rowwise": RowwiseGaussian,
    "gaussian-mixture": GaussianMixture,
    "bernoulli": Bernoulli,
}
