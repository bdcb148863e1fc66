"""Variational autoencoders with energy-based priors, as scikit-learn estimators."""

from skevae._energy_vae import EnergyVAE
from skevae._normal_prior import NormalPrior
from skevae._rbm_prior import GaussianBernoulliRBMPrior

__version__ = "0.1.0.dev0"

__all__ = ["EnergyVAE", "GaussianBernoulliRBMPrior", "NormalPrior", "__version__"]
