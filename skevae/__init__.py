"""Variational autoencoders with energy-based priors, as scikit-learn estimators."""

from skevae.energy_vae import EnergyVAE
from skevae.meta.ensemble import EnergyEnsemble
from skevae.meta.imputer import EnergyImputer
from skevae.meta.outliers import EnergyOutlierDetector
from skevae.persistence import export_decoder, export_encoder, load_model, save_model
from skevae.priors.flow import FlowPrior
from skevae.priors.gaussian_bernoulli import GaussianBernoulliRBMPrior
from skevae.priors.mixture import GaussianMixturePrior
from skevae.priors.neural import NeuralPrior
from skevae.priors.normal import NormalPrior
from skevae.priors.vamp import VampPrior

__version__ = "0.1.0.dev0"

__all__ = [
    "EnergyEnsemble",
    "EnergyImputer",
    "EnergyOutlierDetector",
    "EnergyVAE",
    "FlowPrior",
    "GaussianBernoulliRBMPrior",
    "GaussianMixturePrior",
    "NeuralPrior",
    "NormalPrior",
    "VampPrior",
    "__version__",
    "export_decoder",
    "export_encoder",
    "load_model",
    "save_model",
]
