"""Samplers: Markov transitions of an energy, and exact draws: a file each."""

from __future__ import annotations

from skevae.samplers.base import Sampler
from skevae.samplers.exact import ExactSampler
from skevae.samplers.gibbs import BlockGibbs
from skevae.samplers.langevin import (
    GibbsLangevin,
    Langevin,
    MetropolisGibbsLangevin,
    MetropolisLangevin,
)
from skevae.samplers.tempering import ParallelTempering

# Those that need no more than a gradient, and so serve every smooth energy.
GRADIENT_SAMPLERS: dict[str, type[Langevin]] = {
    "langevin": Langevin,
    "metropolis-langevin": MetropolisLangevin,
}


SAMPLERS: dict[str, type[Sampler]] = {
    "gibbs": BlockGibbs,
    **GRADIENT_SAMPLERS,
    "gibbs-langevin": GibbsLangevin,
    "metropolis-gibbs-langevin": MetropolisGibbsLangevin,
    "parallel-tempering": ParallelTempering,
    "exact": ExactSampler,
}
