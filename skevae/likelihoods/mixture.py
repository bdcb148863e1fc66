"""A small mixture of Gaussians for each feature."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor
from torch.autograd.function import once_differentiable

from skevae.energies import LOG_2PI
from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.likelihoods.gaussian import MIN_SCALE_CONSTRAINT
from skevae.networks.scales import positive
from skevae.utils.random import standard_normal

LOG2_E = math.log2(math.e)


# 2^-100 of the largest term is below the rounding error, and far above float32's subnormal numbers.
MIN_EXPONENT = -100.0


class _MixtureLogDensity(torch.autograd.Function):
    """ln p(x_j) + ln(2 pi) / 2 under a mixture of Gaussians for each feature j.

    ``x`` is (..., n_features) and the rest (K, ..., n_features): components come first, where sums
    over them are fastest. The gradient is that of Bishop (1994), in which each component is
    weighted by its share in the density. It is computed together with the value, in a few passes.
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
        return log_density

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        by_logits, by_mean, by_scale = (slope * grad for slope in ctx.saved_tensors)
        by_x = -by_mean.sum(0).sum_to_size(ctx.shape) if ctx.needs_input_grad[0] else None
        return by_x, by_logits, by_mean, by_scale


def _normalized_exp(exponent: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Softmax along the first dimension of exp(exponent) times ``factor``, and ln of its sum."""
    largest = exponent.amax(0)
    # Finite, because the difference of two minus infinities is nan.
    terms = exponent - largest.clamp(min=torch.finfo(largest.dtype).min)
    # In base 2, which is fastest in torch, and clipped above the range of slow subnormal numbers.
    terms = terms.mul_(LOG2_E).clamp_(min=MIN_EXPONENT).exp2_()
    if factor is not None:
        terms *= factor
    total = terms.sum(0)
    return terms.div_(total), largest.add_(total.log())


class GaussianMixture(Likelihood):
    r"""p(x | z) = prod_i sum_k pi_ik(z) N(x_i; mean_ik(z), scale_ik(z)^2), all parameters decoded.

    Given z, every feature has its own small mixture (Bishop 1994, "Mixture density networks"). It
    can model columns that are nearly discrete, bounded, skewed or heavy-tailed, so that the latents
    only need to model the dependence between features.
    """

    def __init__(self, n_features: int, n_components: int, min_scale: float) -> None:
        super().__init__(n_features, n_outputs=3 * n_components * n_features)
        self.n_components = n_components
        self.min_scale = min_scale
        levels = (torch.arange(self.n_components, dtype=torch.float64) + 0.5) / self.n_components
        # Before training, the components are side by side and together have the moments of N(0, 1).
        quantiles = torch.special.ndtri(levels)
        self.initial_scale = math.sqrt(1 - quantiles.square().mean().item())
        self.initial_mean: Tensor
        self.register_buffer("initial_mean", quantiles.float()[:, None])

    def components(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of pi, mean and scale: (..., 3 K n_features) -> (K, ..., n_features) each."""
        shape = (3, self.n_components, self.n_features)
        parts = outputs.unflatten(-1, shape).movedim((-3, -2), (0, 1))
        logits, mean, raw_scale = parts.contiguous()
        initial_mean = self.initial_mean.view(-1, *[1] * (mean.ndim - 1))
        scale = self.min_scale + self.initial_scale * positive(raw_scale)
        return logits, mean + initial_mean, scale

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        per_feature = _MixtureLogDensity.apply(x, *self.components(outputs))
        return per_feature.sum(-1) - 0.5 * self.n_features * LOG_2PI

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        return _MixtureLogDensity.apply(x, *self.components(outputs)) - 0.5 * LOG_2PI

    def mean(self, outputs: Tensor) -> Tensor:
        logits, mean, _ = self.components(outputs)
        return (logits.softmax(0) * mean).sum(0)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self.draw(*self.components(outputs), generator)

    @staticmethod
    def draw(logits: Tensor, mean: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from mixtures: (K, ..., n_features) three times -> (..., n_features)."""
        below = logits.softmax(0).cumsum(0)[:-1]
        uniform = torch.rand(
            mean.shape[1:], generator=generator, dtype=mean.dtype, device=mean.device
        )
        chosen = (uniform > below).sum(0, keepdim=True)
        mean, scale = (values.gather(0, chosen).squeeze(0) for values in (mean, scale))
        return mean + scale * standard_normal(mean.shape, generator, mean)


class GaussianMixtureLikelihood(LikelihoodFamily):
    """A small mixture of Gaussians for each feature, with decoded parameters.

    Parameters
    ----------
    n_components : int, default=2
        Number of Gaussians for each feature. Five are better for discrete columns, but overfit
        small data sets.
    min_scale : float, default=0.01
        Lower bound of the scales, in standard deviations of each feature (in units of X with
        ``standardize=False``).

    Examples
    --------
    >>> from skevae import EnergyVAE
    >>> from skevae.likelihoods import GaussianMixtureLikelihood
    >>> vae = EnergyVAE(likelihood=GaussianMixtureLikelihood(n_components=5))
    >>> vae.get_params()["likelihood__n_components"]
    5
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "min_scale": MIN_SCALE_CONSTRAINT,
    }

    def __init__(self, *, n_components=2, min_scale=0.01):
        self.n_components = n_components
        self.min_scale = min_scale

    def make_likelihood(self, n_features: int) -> GaussianMixture:
        return GaussianMixture(n_features, int(self.n_components), self.min_scale)
