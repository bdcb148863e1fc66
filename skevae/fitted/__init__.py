"""What a trained `EnergyVAE` computes: a file for each group of calls."""

from skevae.fitted.latents import Latents
from skevae.fitted.paths import Paths
from skevae.fitted.scores import Scores


class FittedVAE(Scores, Paths, Latents):
    """All calls on a trained model."""
