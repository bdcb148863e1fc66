"""Prior estimators, and the names by which `EnergyVAE` knows them."""

from __future__ import annotations

from skevae._flow_prior import FlowPrior
from skevae._mixture_prior import GaussianMixturePrior
from skevae._neural_prior import NeuralPrior
from skevae._normal_prior import NormalPrior
from skevae._prior_base import DensityPrior, TrainedDensityPrior
from skevae._rbm_prior import GaussianBernoulliRBMPrior
from skevae._vamp_prior import VampPrior

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
