"""Small fitted models for the tests of model files, and what makes two models the same."""

import pickle

import numpy as np
import pandas as pd
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, load_model, save_model

X = load_iris().data[::3]


def vae(**params):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "prior": GaussianBernoulliRBMPrior(3),
        "max_iter": 1,
        "n_draws": 2,
        "n_score_draws": 8,
        "early_stopping": False,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


def rbm(**params):
    return GaussianBernoulliRBMPrior(3, **{"max_iter": 1, "random_state": 0, **params})


def affine(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.Linear(n_inputs, n_outputs)


def table(n=60, seed=0):
    """Mixed columns with holes, one of them bounded below."""
    rng = np.random.RandomState(seed)
    z = rng.randn(n)
    frame = pd.DataFrame(
        {
            "height": np.exp(z),
            "kind": np.where(z > 0, "tall", "short"),
            "count": rng.poisson(np.exp(z)),
            "flag": z > 0.5,
            "size": pd.Categorical.from_codes(
                np.digitize(z, [-0.5, 0.5]), ["S", "M", "L"], ordered=True
            ),
            "rate": z.astype(np.float32),
            "rank": pd.array(rng.randint(5, size=n), dtype="Int64"),
        }
    )
    for name in ("height", "kind", "size"):
        frame.loc[rng.rand(n) < 0.1, name] = None
    return frame


TABLE = table()
BOUNDS = {"height": (0, None)}


def by_file(model, folder, custom=None):
    return load_model(save_model(model, folder / "model.skevae"), custom=custom)


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def assert_same_values(one, other):
    """Hold that parameters or attributes are equal, nested estimators by their parameters."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same_values(one[key], other[key])
    elif isinstance(one, BaseEstimator):
        assert_same_values(one.get_params(), other.get_params())
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for part, counterpart in zip(one, other, strict=True):
            assert_same_values(part, counterpart)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.flags.f_contiguous == other.flags.f_contiguous
        assert_array_equal(one, other)
    elif isinstance(one, nn.Module):
        assert repr(one) == repr(other) and one.training == other.training
        state, counterpart = one.state_dict(), other.state_dict()
        assert_same_values(list(state), list(counterpart))
        for name, tensor in state.items():
            assert tensor.dtype == counterpart[name].dtype
            assert_array_equal(tensor.numpy(), counterpart[name].numpy())
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert p.requires_grad == q.requires_grad
    elif isinstance(one, float):
        assert one == other or (one != one and other != other)
    elif isinstance(one, str | int | type(None)):
        assert one == other


CALLS = {
    "score_samples": lambda m, rows: m.score_samples(rows),
    "transform": lambda m, rows: m.transform(rows),
    "energy": lambda m, rows: m.energy(rows),
    "predict": lambda m, rows: m.predict(rows),
    "impute": lambda m, rows: m.impute(rows, method="draw"),
    "sample": lambda m, rows: m.sample(3, random_state=1),
}


def assert_same_model(one, other, rows):
    """Hold that two fitted models are equal to the bit, in what they hold and what they return."""
    assert vars(one).keys() == vars(other).keys()
    assert_same_values(one.__getstate__(), other.__getstate__())
    assert_same_values(one.get_params(), other.get_params())
    for name, call in CALLS.items():
        if hasattr(one, name):
            expected, found = call(one, rows), call(other, rows)
            assert type(expected) is type(found), name
            if isinstance(expected, pd.DataFrame):
                pd.testing.assert_frame_equal(found, expected)
            else:
                assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=name)
