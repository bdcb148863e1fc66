"""Variational autoencoders with energy-based priors, as scikit-learn estimators."""

from skevae._energy_vae import EnergyVAE
from skevae._flow_prior import FlowPrior
from skevae._mixture_prior import GaussianMixturePrior
from skevae._neural_prior import NeuralPrior
from skevae._normal_prior import NormalPrior
from skevae._rbm_prior import GaussianBernoulliRBMPrior
from skevae._vamp_prior import VampPrior

__version__ = "0.1.0.dev0"

__all__ = [
    "EnergyVAE",
    "FlowPrior",
    "GaussianBernoulliRBMPrior",
    "GaussianMixturePrior",
    "NeuralPrior",
    "NormalPrior",
    "VampPrior",
    "__version__",
]
