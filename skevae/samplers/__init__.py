"""Samplers: Markov transitions of an energy, and exact draws, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sklearn.base import clone

from skevae.samplers.base import Sampler
from skevae.samplers.exact import ExactSampler
from skevae.samplers.gibbs import BlockGibbs
from skevae.samplers.gibbs_langevin import GibbsLangevin, MetropolisGibbsLangevin
from skevae.samplers.langevin import Langevin, MetropolisLangevin
from skevae.samplers.tempering import ParallelTempering
from skevae.utils.constraints import Entries

__all__ = [
    "GRADIENT_SAMPLERS",
    "SAMPLERS",
    "BlockGibbs",
    "ExactSampler",
    "GibbsLangevin",
    "Langevin",
    "MetropolisGibbsLangevin",
    "MetropolisLangevin",
    "ParallelTempering",
    "Sampler",
    "resolve_sampler",
]

SAMPLERS: dict[str, type[Sampler]] = {
    "gibbs": BlockGibbs,
    "langevin": Langevin,
    "metropolis-langevin": MetropolisLangevin,
    "gibbs-langevin": GibbsLangevin,
    "metropolis-gibbs-langevin": MetropolisGibbsLangevin,
    "parallel-tempering": ParallelTempering,
    "exact": ExactSampler,
}

# The samplers of any smooth energy.
GRADIENT_SAMPLERS: Mapping[str, type[Sampler]] = Entries(
    SAMPLERS, lambda kind: kind.needs_only_gradient
)


def resolve_sampler(sampler: str | Sampler, **settings: Any) -> Sampler:
    """Return a new sampler, from a name or from a sampler object.

    Parameters
    ----------
    sampler : str or Sampler
        A key of `SAMPLERS`, or an object, which is cloned.
    **settings
        Parameters for a sampler given by name. Those that it does not have are ignored.

    Raises
    ------
    ValueError
        If a parameter of the sampler is out of its range.
    """
    if isinstance(sampler, str):
        kind = SAMPLERS[sampler]
        known = kind().get_params()
        made = kind(**{name: value for name, value in settings.items() if name in known})
    else:
        made = clone(sampler)
    made._validate_params()
    return made
