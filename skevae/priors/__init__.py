"""Prior estimators, one file each."""

from __future__ import annotations

from skevae.priors.base import DensityPrior
from skevae.priors.flow import FlowPrior
from skevae.priors.gaussian_bernoulli import GaussianBernoulliRBMPrior
from skevae.priors.mixture import GaussianMixturePrior
from skevae.priors.neural import NeuralPrior
from skevae.priors.normal import NormalPrior
from skevae.priors.trained import TrainedDensityPrior
from skevae.priors.vamp import VampPrior

__all__ = [
    "PRIORS",
    "DensityPrior",
    "FlowPrior",
    "GaussianBernoulliRBMPrior",
    "GaussianMixturePrior",
    "NeuralPrior",
    "NormalPrior",
    "TrainedDensityPrior",
    "VampPrior",
]

PRIORS: dict[str, type[DensityPrior]] = {
    "grbm": GaussianBernoulliRBMPrior,
    "normal": NormalPrior,
    "mixture": GaussianMixturePrior,
    "vamp": VampPrior,
    "flow": FlowPrior,
    "neural": NeuralPrior,
}
