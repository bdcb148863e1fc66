"""Pickle and joblib bring back the same model, without a device and ready to go on."""

import io
import pickle
import pickletools
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_priors import LATER, small_prior
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NormalPrior
from skevae.networks import DenseNet

X_IRIS = load_iris().data


def affine(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.Linear(n_inputs, n_outputs)


def vae(**params):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "prior": GaussianBernoulliRBMPrior(4),
        "max_iter": 3,
        "n_draws": 2,
        "n_score_draws": 20,
        "batch_size": 64,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


def rbm(**params):
    return GaussianBernoulliRBMPrior(4, **{"max_iter": 3, "random_state": 0, **params})


def brief(name, **params):
    """Prior whose ln Z, where it is annealed, is so in few steps."""
    return small_prior(name, n_annealing_steps=20, **params)


MODELS = {
    "vae": vae(),
    "normal prior": vae(prior="normal", likelihood="gaussian", posterior="fixed"),
    "weight norm": vae(network=DenseNet(weight_norm=True)),
    "own network": vae(network=affine),
    "flow": vae(posterior="iaf"),
    "ex post": vae(ex_post=GaussianMixture(2)),
    "persistent": vae(partition="persistent"),
    "rbm": rbm(),
    "persistent rbm": rbm(partition="persistent"),
    "normal": NormalPrior(random_state=0),
    **{name: brief(name, max_iter=3, random_state=0) for name in LATER},
    **{f"vae with {name}": vae(prior=brief(name)) for name in LATER},
}
CAN_GO_ON = [name for name, model in MODELS.items() if hasattr(model, "partial_fit")]


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


def by_joblib_compressed(model):
    file = io.BytesIO()
    joblib.dump(model, file, compress=3)
    file.seek(0)
    return joblib.load(file)


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    return MODELS[request.param].fit(X_IRIS)


@pytest.mark.parametrize("trip", [by_pickle, by_joblib, by_joblib_compressed])
def test_round_trip(fitted, trip):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = trip(fitted)
    assert_array_equal(again.score_samples(X_IRIS), fitted.score_samples(X_IRIS))
    assert_array_equal(again.sample(5), fitted.sample(5))
    for name in ("transform", "reconstruct", "energy"):
        if hasattr(fitted, name):
            assert_array_equal(getattr(again, name)(X_IRIS), getattr(fitted, name)(X_IRIS))
    if hasattr(fitted, "prior_"):
        assert again.prior_.log_partition_ == fitted.prior_.log_partition_
        samples = (m.prior_.sample(3, random_state=0) for m in (again, fitted))
        assert_array_equal(*samples)
    assert again.get_params().keys() == fitted.get_params().keys()
    assert vars(again).keys() == vars(fitted).keys()


def test_calls_leave_nothing_behind(fitted):
    fitted.score_samples(X_IRIS)
    size = len(pickle.dumps(fitted))
    names = [name for name in ("score_samples", "transform", "energy") if hasattr(fitted, name)]
    for name in names:
        getattr(fitted, name)(X_IRIS)
    fitted.sample(2)
    assert len(pickle.dumps(fitted)) == size


def tensors_in(thing, seen=None):
    """All tensors that can be reached from an object."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_in(value, seen)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from tensors_in(value, seen)
    elif hasattr(thing, "__dict__"):
        yield from tensors_in(vars(thing), seen)


def test_models_rest_on_the_cpu_in_float32(fitted):
    if hasattr(fitted, "partial_fit"):
        fitted = pickle.loads(pickle.dumps(fitted)).partial_fit(X_IRIS)
    tensors = list(tensors_in(fitted))
    assert tensors or isinstance(fitted, NormalPrior)
    for tensor in tensors:
        assert tensor.device.type == "cpu"
        assert not tensor.is_floating_point() or tensor.dtype == torch.float32
        assert tensor.grad is None


def test_pickles_name_no_device_but_the_cpu(fitted):
    strings = [
        arg for _, arg, _ in pickletools.genops(pickle.dumps(fitted)) if isinstance(arg, str)
    ]
    strings = [text for text in strings if text != "cuda_graph"]  # a parameter
    assert not [text for text in strings if "cuda" in text.lower()]


def test_pickles_are_no_larger_than_the_model():
    # Neither data nor optimizer state of a finished fit belongs into them.
    X = np.random.RandomState(0).normal(size=(20_000, 4))
    small, large = (len(pickle.dumps(vae(max_iter=1).fit(rows))) for rows in (X[:100], X))
    assert large < small + 1000


@pytest.mark.parametrize("name", CAN_GO_ON)
def test_partial_fit_goes_on_after_a_round_trip(name):
    params = {"random_state": 0}
    straight = MODELS[name].set_params(**params)
    straight.fit(X_IRIS)
    straight.partial_fit(X_IRIS).partial_fit(X_IRIS)
    there = by_pickle(straight)
    assert_array_equal(
        by_pickle(there.partial_fit(X_IRIS)).score_samples(X_IRIS),
        straight.partial_fit(X_IRIS).score_samples(X_IRIS),
    )
    assert there.n_iter_ == straight.n_iter_


def test_warm_start_goes_on_after_a_round_trip():
    model = vae(warm_start=True).fit(X_IRIS)
    there = by_pickle(model)
    assert_array_equal(
        there.fit(X_IRIS).score_samples(X_IRIS), model.fit(X_IRIS).score_samples(X_IRIS)
    )


def test_unpickled_model_moves_to_another_device():
    model = vae(device="auto").fit(X_IRIS)
    there = by_pickle(model).set_params(device="cpu")
    assert_array_equal(there.score_samples(X_IRIS), model.score_samples(X_IRIS))
    there.set_params(device=torch.device("cpu"))
    assert_array_equal(by_pickle(there).score_samples(X_IRIS), model.score_samples(X_IRIS))


def test_unfitted_models_are_pickled_too():
    for model in MODELS.values():
        again = by_pickle(model)
        assert again.get_params().keys() == model.get_params().keys()


def test_inside_a_pipeline():
    model = make_pipeline(StandardScaler(), vae()).fit(X_IRIS)
    assert by_joblib(model).score(X_IRIS) == model.score(X_IRIS)


@pytest.mark.slow
def test_in_another_process(tmp_path):
    model = vae().fit(X_IRIS)
    np.save(tmp_path / "X.npy", X_IRIS)
    joblib.dump(model, tmp_path / "model.joblib")
    code = (
        "import joblib, numpy, sys\n"
        "model = joblib.load(sys.argv[1] + '/model.joblib')\n"
        "X = numpy.load(sys.argv[1] + '/X.npy')\n"
        "numpy.save(sys.argv[1] + '/scores.npy', model.score_samples(X))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)
    scores = np.load(tmp_path / "scores.npy")
    # Other threads may sum in another order.
    np.testing.assert_allclose(scores, model.score_samples(X_IRIS), rtol=1e-10)
