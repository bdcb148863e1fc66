"""Displays: plots of a fitted model, in the style of scikit-learn.

Each display has `from_estimator`, which computes and plots, and `plot`, which plots again. They
need matplotlib (``pip install "skevae[plots]"``), which is only imported for plotting.
"""

from skevae.displays.chains import ChainsDisplay
from skevae.displays.density import DensityDisplay
from skevae.displays.diagnostics import DiagnosticsDisplay
from skevae.displays.latent import LatentDisplay
from skevae.displays.reconstruction import ReconstructionDisplay
from skevae.displays.training import TrainingDisplay

__all__ = [
    "ChainsDisplay",
    "DensityDisplay",
    "DiagnosticsDisplay",
    "LatentDisplay",
    "ReconstructionDisplay",
    "TrainingDisplay",
]
