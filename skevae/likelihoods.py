"""Likelihoods p(x | z): what the decoder's outputs mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skevae._random import standard_normal
from skevae.energies import LOG_2PI, softplus
from skevae.networks import positive


def _normal_log_density(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """ln N(x; mean, diag(scale^2)): (..., n_features) -> (...)."""
    per_feature = -0.5 * ((x - mean) / scale).square() - scale.log()
    return per_feature.sum(-1) - 0.5 * x.shape[-1] * LOG_2PI


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

    n_components = 5
    outputs_per_feature = 3 * n_components
    is_continuous = True
    # Untrained, the components stand side by side and together make up about N(0, 1).
    initial_scale = 0.5

    def __init__(self, n_features: int, min_scale: float) -> None:
        super().__init__(n_features, min_scale)
        self.n_features = n_features
        levels = (torch.arange(self.n_components, dtype=torch.float64) + 0.5) / self.n_components
        self.initial_mean: Tensor
        self.register_buffer("initial_mean", torch.special.ndtri(levels).float()[:, None])

    def _components(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln pi, mean and scale: (..., 3 K n_features) -> (..., K, n_features) each."""
        shape = (3, self.n_components, self.n_features)
        logits, mean, raw_scale = outputs.unflatten(-1, shape).unbind(-3)
        scale = self.min_scale + self.initial_scale * positive(raw_scale)
        return logits.log_softmax(-2), mean + self.initial_mean, scale

    def log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        log_weight, mean, scale = self._components(outputs)
        per_component = -0.5 * ((x.unsqueeze(-2) - mean) / scale).square() - scale.log()
        per_feature = (log_weight + per_component).logsumexp(-2)
        return per_feature.sum(-1) - 0.5 * self.n_features * LOG_2PI

    def mean(self, outputs: Tensor) -> Tensor:
        log_weight, mean, _ = self._components(outputs)
        return (log_weight.exp() * mean).sum(-2)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        log_weight, mean, scale = self._components(outputs)
        below = log_weight.exp().cumsum(-2)[..., :-1, :]
        uniform = torch.rand(
            mean[..., :1, :].shape, generator=generator, dtype=mean.dtype, device=mean.device
        )
        chosen = (uniform > below).sum(-2, keepdim=True)
        mean, scale = (values.gather(-2, chosen).squeeze(-2) for values in (mean, scale))
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
        return torch.bernoulli(outputs.sigmoid(), generator=generator)


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
