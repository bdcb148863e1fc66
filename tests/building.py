"""Small parts that several test modules build."""

from skevae.likelihoods import LIKELIHOODS
from skevae.likelihoods.base import Likelihood


def make_likelihood(name: str, n_features: int, min_scale: float = 0.01) -> Likelihood:
    """The module of a likelihood by its name, with ``min_scale`` if it has one."""
    family = LIKELIHOODS[name]()
    if "min_scale" in family.get_params():
        family.set_params(min_scale=min_scale)
    return family.make_likelihood(n_features)


CONTINUOUS = [name for name in LIKELIHOODS if make_likelihood(name, 1).standardizes]
DISCRETE = [name for name in LIKELIHOODS if name not in CONTINUOUS]
