"""Data sets: two-dimensional toy densities, and binarised MNIST.

A toy density has an exact normalised log-density and a known entropy. In expectation, no model can
score above minus the entropy. The gap between the two measures the quality of a model, and a higher
score shows that it is not a likelihood.
"""

from __future__ import annotations

from skevae.datasets.checks import check_choice
from skevae.datasets.mnist import fetch_binarized_mnist
from skevae.datasets.potentials import Potential1, Potential2, Potential3, Potential4
from skevae.datasets.toy import Checkerboard, EightGaussians, ToyDensity, TwoSpirals

__all__ = ["TOY_DENSITIES", "ToyDensity", "fetch_binarized_mnist", "toy_density"]

TOY_DENSITIES: dict[str, type[ToyDensity]] = {
    density.name: density
    for density in (
        EightGaussians,
        Checkerboard,
        TwoSpirals,
        Potential1,
        Potential2,
        Potential3,
        Potential4,
    )
}


def toy_density(name: str) -> ToyDensity:
    """Return a two-dimensional density with exact samples, log-density and entropy.

    Parameters
    ----------
    name : {"8gaussians", "checkerboard", "2spirals", "potential1", "potential2", "potential3", \
            "potential4"}
        The first three are the toy data of FFJORD [1]_, the others the potentials of [2]_,
        normalised on the box [-4, 4]^2.

    Returns
    -------
    density : ToyDensity
        Has `sample(n_samples=1, random_state=None)`, an array of shape (n_samples, 2);
        `log_density(X)`, shape (n_samples,), normalised, in nats; `entropy`, in nats; `name` and
        `n_features`. The potentials also have `energy(X)` and `log_partition`.

    Raises
    ------
    ValueError
        If `name` is not one of those above.

    References
    ----------
    .. [1] Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), "FFJORD: Free-form
       continuous dynamics for scalable reversible generative models", ICLR.
    .. [2] Rezende and Mohamed (2015), "Variational inference with normalizing flows", ICML.

    Examples
    --------
    >>> from sklearn.mixture import GaussianMixture
    >>> from skevae.datasets import toy_density
    >>> density = toy_density("8gaussians")
    >>> X_train = density.sample(2000, random_state=0)
    >>> X_test = density.sample(2000, random_state=1)
    >>> model = GaussianMixture(8, random_state=0).fit(X_train)
    >>> gap = density.log_density(X_test).mean() - model.score(X_test)
    >>> print(f"entropy {density.entropy:.3f}, gap {gap:.2f} nats")
    entropy 2.832, gap 0.01 nats
    """
    check_choice("name", name, TOY_DENSITIES)
    return TOY_DENSITIES[name]()
