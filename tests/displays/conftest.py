"""Small fitted models that the displays are tried on, and figures closed after each test."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris

from skevae import EnergyVAE, GaussianBernoulliRBMPrior

SMALL = {"hidden_layer_sizes": (8,), "n_draws": 2, "n_score_draws": 40, "random_state": 0}

pytest.importorskip("matplotlib", reason="the displays need matplotlib")


@pytest.fixture(autouse=True)
def plt():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture(scope="package")
def iris():
    return load_iris(as_frame=True).data


@pytest.fixture(scope="package")
def rbm(iris):
    """A prior by itself, fitted to a table of four columns."""
    return GaussianBernoulliRBMPrior(3, max_iter=6, random_state=0).fit(iris)


@pytest.fixture(scope="package")
def vae(iris):
    """Two latents."""
    prior = GaussianBernoulliRBMPrior(3)
    return EnergyVAE(2, prior=prior, max_iter=6, kl_warmup=0.4, **SMALL).fit(iris)


@pytest.fixture(scope="package")
def deep(iris):
    """Three latents."""
    prior = GaussianBernoulliRBMPrior(3)
    return EnergyVAE(3, prior=prior, max_iter=1, **SMALL).fit(iris)


@pytest.fixture(scope="package")
def table(iris):
    """A number, a category, an integer and another number, with holes."""
    random = np.random.RandomState(0)
    table = iris.set_axis(["a", "kind", "count", "b"], axis=1)
    table["kind"] = np.where(table["kind"] > 3, "wide", "narrow")
    table["count"] = table["count"].round().astype(int)
    return table.mask(random.rand(*table.shape) < 0.1)


@pytest.fixture(scope="package")
def mixed(table):
    """A model of that table."""
    return EnergyVAE(2, prior="normal", max_iter=1, **SMALL).fit(table)


@pytest.fixture(scope="package")
def images():
    return load_digits().data[:60]


@pytest.fixture(scope="package")
def artist(images):
    """A prior fitted to images."""
    return GaussianBernoulliRBMPrior(4, max_iter=1, random_state=0).fit(images)
