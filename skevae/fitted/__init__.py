"""What a trained `EnergyVAE` computes: a file for each group of calls."""

from skevae.fitted.certificate import Certificates
from skevae.fitted.conditionals import Conditionals
from skevae.fitted.paths import Paths
from skevae.fitted.scores import Scores


class FittedVAE(Scores, Conditionals, Paths, Certificates):
    """All calls on a trained model."""
