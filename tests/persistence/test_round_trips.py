"""A loaded model is the saved one, to the bit, and goes on as that would."""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from model_files import (
    BOUNDS,
    TABLE,
    X,
    affine,
    assert_same_model,
    assert_same_values,
    by_file,
    by_pickle,
    rbm,
    vae,
)
from numpy.testing import assert_array_equal
from pairs import all_pairs
from sklearn import config_context
from sklearn.base import clone
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity
from small_priors import small_prior

from skevae import (
    EnergyEnsemble,
    EnergyImputer,
    EnergyOutlierDetector,
    EnergyVAE,
    load_model,
    save_model,
)
from skevae.likelihoods import LIKELIHOODS, GaussianMixtureLikelihood
from skevae.networks import MLP, NETWORKS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.samplers import SAMPLERS, ParallelTempering

BINARY = (X > X.mean(0)).astype(float)
HOLES = np.where(np.random.RandomState(0).rand(*X.shape) < 0.1, np.nan, X)
DENSITIES = {
    "mixture": GaussianMixture(2, random_state=0),
    "bayesian": BayesianGaussianMixture(covariance_type="tied", tol=1.0, random_state=0),
    "kernels": KernelDensity(bandwidth="scott", kernel="tophat"),
    "rbm": rbm(),
    "vae": vae(n_components=1),
}

# Whose fits or scores take longer than their files.
LONG = {
    "ex post rbm",
    "ex post vae",
    "flow posterior",
    "posterior iaf-volume-preserving",
    "prior neural",
    "vae, neural",
    "vamp",
}

MODELS = {
    **{f"prior {name}": (small_prior(name, max_iter=1, random_state=0), X) for name in PRIORS},
    **{f"vae, {name}": (vae(prior=small_prior(name)), X) for name in PRIORS},
    **{f"posterior {name}": (vae(posterior=name), X) for name in POSTERIORS},
    **{f"likelihood {name}": (vae(likelihood=name), BINARY) for name in LIKELIHOODS},
    **{f"network {name}": (vae(network=name), X) for name in NETWORKS},
    **{f"ex post {name}": (vae(ex_post=made), X) for name, made in DENSITIES.items()},
    "table": (vae(bounds=BOUNDS), TABLE),
    "holes": (vae(mask_rate=0.2), HOLES),
    "object array": (vae(categorical_features=[1]), TABLE[["height", "kind"]].to_numpy(object)),
    "one feature": (small_prior("flow", max_iter=1, random_state=0), X[:, :1]),
    "float32": (vae(), X.astype(np.float32)),
    "imputer": (EnergyImputer(vae(bounds=BOUNDS)), TABLE),
    "ensemble": (EnergyEnsemble(vae(bounds=BOUNDS), n_estimators=2, random_state=0), TABLE),
    "outliers": (EnergyOutlierDetector(vae(), contamination=0.2), X),
    "outliers by kernels": (EnergyOutlierDetector(KernelDensity()), X),
    "outliers by mixture": (EnergyOutlierDetector(GaussianMixture(2, random_state=0)), X),
    "objects": (
        vae(
            network=MLP(activation="tanh", weight_norm=True),
            likelihood=GaussianMixtureLikelihood(min_scale=0.05),
        ),
        X,
    ),
}
PASSES = {
    "persistent": vae(partition="persistent"),
    "exact": vae(),
    "flow posterior": vae(posterior="iaf"),
    "ex post": vae(ex_post=GaussianMixture(2, random_state=0)),
    "vamp": vae(prior=small_prior("vamp")),
    "rbm": rbm(partition="persistent"),
    "generator": vae(random_state=np.random.RandomState(3)),
}


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in names]


@pytest.mark.parametrize("name", marked(MODELS))
def test_round_trip(name, tmp_path):
    model, rows = MODELS[name]
    model = clone(model)
    assert_same_values(by_file(model, tmp_path).get_params(), model.get_params())
    model.fit(rows)
    again = by_file(model, tmp_path)
    assert_same_model(again, model, rows)
    assert_same_model(by_file(again, tmp_path), model, rows)


def test_round_trip_of_polars_tables(tmp_path):
    pl = pytest.importorskip("polars")
    kinds = np.where(BINARY, "a", "b").T.tolist()
    rows = pl.DataFrame(
        {
            "x": pl.Series(X[:, 0], dtype=pl.Float32),
            "n": pl.Series(np.rint(X[:, 1]).astype(int)),
            "kind": pl.Series(kinds[0]),
            "size": pl.Series(kinds[1], dtype=pl.Enum(["b", "a"])),
            "sort": pl.Series(kinds[2], dtype=pl.Categorical),
            "flag": pl.Series(BINARY[:, 3] > 0),
        }
    )
    model = vae().fit(rows)
    again = by_file(model, tmp_path)
    assert_same_model(again, model, rows)
    assert again.sample(2).schema == rows.schema


@pytest.mark.slow
@pytest.mark.parametrize("prior, posterior, likelihood", all_pairs(PRIORS, POSTERIORS, LIKELIHOODS))
def test_round_trip_of_every_pair_of_options(prior, posterior, likelihood, tmp_path):
    options = {"prior": small_prior(prior), "posterior": posterior, "likelihood": likelihood}
    model = vae(**options, max_iter=2)
    if likelihood == "bernoulli":
        rows = BINARY
    else:
        model.set_params(bounds=BOUNDS)
        rows = TABLE
    assert_same_model(by_file(model.fit(rows), tmp_path), model, rows)


@pytest.mark.parametrize("name", SAMPLERS)
def test_round_trip_of_samplers(name, tmp_path):
    model = rbm(sampler=SAMPLERS[name](), partition="persistent").fit(X)
    assert_same_model(by_file(model, tmp_path), model, X)


@pytest.mark.parametrize("name", marked(PASSES))
def test_a_loaded_model_goes_on_as_an_unpickled_one(name, tmp_path):
    straight = clone(PASSES[name]).partial_fit(X).partial_fit(X)
    loaded, unpickled = by_file(straight, tmp_path), by_pickle(straight)
    for model in (straight, loaded, unpickled):
        model.partial_fit(X)
    assert loaded.n_iter_ == straight.n_iter_ == 3
    assert_same_model(loaded, unpickled, X)
    assert_array_equal(loaded.score_samples(X), straight.score_samples(X))


def test_warm_start_goes_on(tmp_path):
    model = vae(warm_start=True).fit(X)
    again = by_file(model, tmp_path)
    assert_same_model(again.fit(X), model.fit(X), X)


def test_shared_parts_stay_shared(tmp_path):
    model = by_file(vae(bounds=BOUNDS).fit(TABLE), tmp_path)
    assert model.module_.density is model.prior_.density_
    assert model._bounds.columns is model._columns


PARAMETERS = {
    "path": {"checkpoint_dir": Path("runs")},
    "device": {"device": torch.device("cpu")},
    "numpy numbers": {"learning_rate": np.float32(0.1), "n_components": np.int64(3)},
    "numpy string": {"network": np.str_("mlp")},
    "nan": {"tol": float("nan")},
    "infinity": {"bounds": {0: (0.0, np.inf), "b": (None, 1)}},
    "strings": {"categorical_features": np.array(["a", "bcd"])},
    "mask": {"categorical_features": np.array([True, False])},
    "index": {"categorical_features": pd.Index(["a", "b"])},
    "big-endian": {"integer_features": np.array([1, 2], dtype=">i4")},
    "no columns": {"integer_features": np.array([], dtype=int)},
    "partial": {"network": functools.partial(affine, hidden_layer_sizes=())},
    "sampler": {"prior": rbm(sampler=ParallelTempering())},
}


@pytest.mark.parametrize("params", PARAMETERS.values(), ids=PARAMETERS)
def test_round_trip_of_parameters(params, tmp_path):
    model = vae(**params)
    again = by_file(model, tmp_path, custom={"affine": affine})
    found, expected = again.get_params(), model.get_params()
    for name in params:
        if isinstance(expected[name], functools.partial):
            assert found[name].func is affine and found[name].keywords == expected[name].keywords
        elif isinstance(expected[name], pd.Index):
            pd.testing.assert_index_equal(found[name], expected[name])
        else:
            assert_same_values(found[name], expected[name])


def test_random_state_goes_on_where_it_was(tmp_path):
    state = np.random.RandomState(5)
    state.normal(size=3)
    again = by_file(vae(random_state=state), tmp_path).random_state
    assert_array_equal(again.normal(size=5), state.normal(size=5))


def test_weighted_kernels(tmp_path):
    weights = np.random.RandomState(0).rand(len(X))
    model = EnergyOutlierDetector(KernelDensity()).fit(X, sample_weight=weights)
    assert_same_model(by_file(model, tmp_path), model, X)


def test_metadata_requests_and_output_containers_are_kept(tmp_path):
    with config_context(enable_metadata_routing=True):
        model = vae().set_fit_request(sample_weight=True)
        model.set_output(transform="pandas")
        again = by_file(model.fit(X), tmp_path)
        assert again.get_metadata_routing().fit.requests == {"sample_weight": True}
    assert isinstance(again.transform(X), pd.DataFrame)


@pytest.mark.slow
def test_in_another_process(tmp_path):
    model = vae(posterior="iaf", bounds=BOUNDS).fit(TABLE)
    path = save_model(model, tmp_path / "model.skevae")
    code = (
        "import sys\n"
        "from skevae import load_model\n"
        "model = load_model(sys.argv[1])\n"
        "print(model.sample(2).to_csv(index=False), end='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    assert done.stdout == model.sample(2).to_csv(index=False)


def test_public_estimators_can_all_be_saved(tmp_path):
    import skevae

    for name in skevae.__all__:
        kind = getattr(skevae, name)
        if isinstance(kind, type):
            assert type(by_file(kind(), tmp_path)) is kind


def test_global_generators_are_left_alone(tmp_path, global_rng_untouched):
    by_file(vae(prior=small_prior("flow"), posterior="iaf").fit(X), tmp_path)


def test_a_loaded_model_does_not_hold_its_file(tmp_path):
    model = vae().fit(X)
    path = save_model(model, str(tmp_path / "model.skevae"))
    again = load_model(str(path))
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    path.unlink()
    assert_same_model(again, model, X)
    assert isinstance(again, EnergyVAE)
