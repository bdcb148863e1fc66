"""Integer likelihood: the probability of a unit interval under a mixture of Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skevae.energies import LOG_2PI
from skevae.likelihoods.base import Likelihood
from skevae.likelihoods.mixture import GaussianMixture

# Lower bound of a scale, in half-widths of a bin: such a narrow Gaussian lies in one bin.
MIN_SCALE_IN_HALF_WIDTHS = 0.2

# Below it, float32 cannot distinguish the two ends of a bin.
MIN_SCALE = 1e-4

# For bins narrower than this, in scales of a Gaussian, the mass is the density times the width. The
# relative error, width^2 / 24 times the curvature, is below 2e-5 at the mode.
NARROW = 0.02

SQRT_HALF = math.sqrt(0.5)


def log_interval_mass(centre: Tensor, half_width: Tensor) -> Tensor:
    r"""ln P(|Z - centre| < half_width) for a standard normal Z, elementwise.

    With a and b the ends, a < b, mirrored so that the interval is in the upper tail, and
    erfcx(t) = exp(t^2) erfc(t), whose values stay in range,

    .. math::
        P = \tfrac12 e^{-a^2/2} \operatorname{erfcx}(a / \sqrt 2)
            \left(1 - e^{(a^2 - b^2) / 2}
            \frac{\operatorname{erfcx}(b / \sqrt 2)}{\operatorname{erfcx}(a / \sqrt 2)}\right)
    """
    distance = centre.abs()
    narrow = 2 * half_width < NARROW
    density = (2 * half_width).log() - 0.5 * (centre.square() + LOG_2PI)
    # The ends of a narrow interval are not used, but must have a finite gradient.
    half = torch.where(narrow, 1.0, half_width)
    a, b = distance - half, distance + half
    log_a, log_b = (torch.special.erfcx(end * SQRT_HALF).log() for end in (a, b))
    ratio = (log_b - log_a - 2 * distance * half).clamp(max=-1e-7)
    wide = log_a - math.log(2) - 0.5 * a.square() + (-torch.expm1(ratio)).log()
    return torch.where(narrow, density, wide)


class BinnedMixture(Likelihood):
    r"""P(x_j | z) = sum_k pi_jk(z) P(|N(mean_jk(z), scale_jk(z)^2) - x_j| < 1/2), x_j an integer.

    All parameters of the mixture are decoded. The probabilities of all integers sum to 1, so the
    scores of nearly discrete columns are bounded.

    Parameters
    ----------
    half_widths : Tensor of shape (n_features,)
        Half a unit, in the coordinates in which x is standardised.
    n_components : int
    """

    def __init__(self, half_widths: Tensor, n_components: int) -> None:
        super().__init__(len(half_widths), 3 * n_components * len(half_widths))
        self.mixture = GaussianMixture(len(half_widths), n_components, 0.0)
        self.half_widths: Tensor
        self.register_buffer("half_widths", half_widths.float())

    def _components(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, mean, scale = self.mixture.components(outputs)
        return (
            logits,
            mean,
            scale + (MIN_SCALE_IN_HALF_WIDTHS * self.half_widths).clamp(min=MIN_SCALE),
        )

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        logits, mean, scale = self._components(outputs)
        mass = log_interval_mass((x - mean) / scale, self.half_widths / scale)
        return (logits.log_softmax(0) + mass).logsumexp(0)

    def mean(self, outputs: Tensor) -> Tensor:
        logits, mean, _ = self._components(outputs)
        return (logits.softmax(0) * mean).sum(0)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from the mixture; rounding then gives each integer the probability of its bin."""
        return self.mixture.draw(*self._components(outputs), generator)
