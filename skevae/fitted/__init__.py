"""The methods of a trained `EnergyVAE`, one file for each group of methods."""

from skevae.fitted.certificate import Certificates
from skevae.fitted.conditionals import Conditionals
from skevae.fitted.paths import Paths
from skevae.fitted.scores import Scores


class FittedVAE(Scores, Conditionals, Paths, Certificates):
    """All methods of a trained model."""
