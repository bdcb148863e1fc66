"""Prior estimators, and the names by which `EnergyVAE` knows them."""

from __future__ import annotations

from skevae._normal_prior import NormalPrior
from skevae._prior_base import DensityPrior
from skevae._rbm_prior import GaussianBernoulliRBMPrior

__all__ = ["PRIORS", "DensityPrior", "GaussianBernoulliRBMPrior", "NormalPrior"]

PRIORS: dict[str, type[DensityPrior]] = {
    "grbm": GaussianBernoulliRBMPrior,
    "normal": NormalPrior,
}
