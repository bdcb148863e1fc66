"""What a file cannot hold is refused when it is saved; what it needs is named when it is loaded."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from model_files import X, affine, assert_same_model, by_file, rbm, vae
from sklearn.callback import ProgressBar
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skevae import (
    EnergyOutlierDetector,
    GaussianBernoulliRBMPrior,
    NormalPrior,
    load_model,
    save_model,
)
from skevae.densities.normal import StandardNormalDensity
from skevae.likelihoods.base import LikelihoodFamily
from skevae.likelihoods.gaussian import Gaussian
from skevae.persistence.classes import Classes, own_classes
from skevae.posteriors import POSTERIORS
from skevae.posteriors.normal import DiagonalNormal
from skevae.utils.archive import ArchiveError


class Trunk(nn.Module):
    """A network of the user's, with plain attributes, a buffer and a function."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.first, self.last = nn.Linear(n_inputs, 4), nn.Linear(4, n_outputs)
        self.last.bias = nn.Parameter(self.last.bias.detach(), requires_grad=False)
        self.activation, self.settings = affine_activation, {"scale": (1.5, [2])}
        self.register_buffer("shift", torch.ones(4), persistent=False)

    def forward(self, x):
        return self.last(self.activation(self.first(x) * self.settings["scale"][0] + self.shift))


def affine_activation(x):
    return x.tanh()


def trunk(n_inputs, n_outputs, hidden_layer_sizes):
    return Trunk(n_inputs, n_outputs)


class OwnPosterior(DiagonalNormal):
    """A posterior from outside the package."""


class OwnDensity(StandardNormalDensity):
    """A density from outside the package."""


class OwnPrior(NormalPrior):
    """A prior from outside the package."""

    def make_density(self, n_features, generator):
        return OwnDensity(n_features)


class OwnNoise(Gaussian):
    """A likelihood from outside the package."""


class OwnLikelihood(LikelihoodFamily):
    """The parameters of `OwnNoise`."""

    def __init__(self, min_scale=0.1):
        self.min_scale = min_scale

    def make_likelihood(self, n_features):
        return OwnNoise(n_features, self.min_scale)


class Unlike:
    """Has the name of something else."""


Unlike.__qualname__ = "affine"

CUSTOM = {
    "network": ({"network": affine}, [affine]),
    "modules": ({"network": trunk}, [trunk, Trunk, affine_activation]),
    "prior": ({"prior": OwnPrior()}, [OwnPrior, OwnDensity]),
    "likelihood": ({"likelihood": OwnLikelihood()}, [OwnLikelihood, OwnNoise]),
    "posterior": ({"posterior": "own"}, [OwnPosterior]),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_classes_and_functions_of_the_user_are_given_at_load(name, tmp_path, monkeypatch):
    monkeypatch.setitem(POSTERIORS, "own", OwnPosterior)
    params, things = CUSTOM[name]
    model = vae(**params).fit(X)
    path = save_model(model, tmp_path / "model.skevae")
    custom = {thing.__qualname__: thing for thing in things}
    assert_same_model(load_model(path, custom=custom), model, X)
    with pytest.raises(ArchiveError) as error:
        load_model(path)
    assert all(repr(needed) in str(error.value) for needed in custom)
    for needed in custom:
        incomplete = {key: thing for key, thing in custom.items() if key != needed}
        with pytest.raises(ArchiveError, match=f"custom=.*'{needed}'"):
            load_model(path, custom=incomplete)
        if isinstance(custom[needed], type):
            with pytest.raises(ArchiveError, match="must be a class|no module"):
                load_model(path, custom={**custom, needed: affine})


def test_a_file_cannot_reach_what_was_not_asked_for(tmp_path):
    path = save_model(vae(network=affine), tmp_path / "model.skevae")
    assert load_model(path, custom={"affine": trunk}).network is trunk


def hooked(n_inputs, n_outputs, hidden_layer_sizes):
    made = nn.Linear(n_inputs, n_outputs)
    made.register_forward_hook(lambda *_: None)
    return made


def parametrised(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.utils.parametrizations.weight_norm(nn.Linear(n_inputs, n_outputs))


REFUSED = {
    "scikit-learn": EnergyOutlierDetector(IsolationForest()),
    "pipeline": EnergyOutlierDetector(make_pipeline(StandardScaler(), vae())),
    "two of a name": vae(network=affine, prior=Unlike()),
    "method": vae(network=vae().fit),
    "file": vae(prior=io.BytesIO()),
    "generator": vae(prior=torch.Generator()),
    "complex": vae(bounds={0: 1j}),
    "dates": vae(categorical_features=np.array(["2020"], dtype="datetime64[Y]")),
    "table": vae(categorical_features=pd.DataFrame({"a": [1]})),
    "masked": vae(categorical_features=np.ma.array([1])),
    "other generator": vae(random_state=np.random.RandomState(np.random.PCG64(0))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_file_cannot_hold_is_refused(name, tmp_path):
    path = tmp_path / "model.skevae"
    with pytest.raises(TypeError, match="joblib"):
        save_model(REFUSED[name], path)
    assert not list(tmp_path.iterdir())


def test_the_parameter_that_a_file_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match="EnergyVAE.hidden_layer_sizes is a Series. A model file"):
        save_model(vae(hidden_layer_sizes=pd.Series([8])), tmp_path / "model.skevae")


def test_the_column_that_a_file_cannot_hold_is_named(tmp_path):
    table = pd.DataFrame({"a": X[:, 0], "bins": pd.cut(X[:, 1], 3)})
    with pytest.raises(TypeError, match=r"\['bins'\]\.categories is a IntervalIndex"):
        save_model(vae().fit(table), tmp_path / "model.skevae")


def test_callbacks_are_left_out(tmp_path):
    model = vae().set_callbacks(ProgressBar()).fit(X)
    again = by_file(model, tmp_path)
    assert not hasattr(again, "_skl_callbacks") and hasattr(model, "_skl_callbacks")
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


@pytest.mark.parametrize("network", [hooked, parametrised])
def test_modules_with_hidden_functions_are_refused(network, tmp_path):
    model = vae(network=network).fit(X)
    with pytest.raises(TypeError, match=r"VAE\.|EnergyVAE\.module_.*hooks.*joblib"):
        save_model(model, tmp_path / "model.skevae")


@pytest.mark.parametrize("thing", [7, None, {}, GaussianBernoulliRBMPrior, "model"], ids=str)
def test_only_estimators_are_saved(thing, tmp_path):
    with pytest.raises(TypeError, match="save_model saves estimators"):
        save_model(thing, tmp_path / "model.skevae")


def test_scikit_learns_own_densities_are_saved_by_themselves_too(tmp_path):
    model = GaussianMixture(2, random_state=0).fit(X)
    again = by_file(model, tmp_path)
    np.testing.assert_array_equal(again.score_samples(X), model.score_samples(X))


def test_names_of_classes_are_unique():
    kinds = list(own_classes().values())
    assert len({kind.__qualname__ for kind in kinds}) == len(set(kinds))


def test_classes_outside_the_package_are_not_known():
    known = Classes.get().known.values()
    assert {Trunk, OwnPosterior, OwnDensity, OwnPrior}.isdisjoint(known)


def test_an_existing_file_is_left_alone_when_a_model_is_refused(tmp_path):
    path = save_model(rbm(), tmp_path / "model.skevae")
    with pytest.raises(TypeError):
        save_model(REFUSED["scikit-learn"], path)
    assert load_model(path).get_params() == rbm().get_params()
