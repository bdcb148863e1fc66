"""Bad input: an error that names parameter, value and remedy, or a result that is finite."""

import re
import sys
import warnings
from itertools import cycle, product

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pairs import all_pairs, quick_and_slow
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from small_priors import LATER, small_prior
from torch import nn

from skevae import (
    EnergyImputer,
    EnergyOutlierDetector,
    EnergyVAE,
    GaussianBernoulliRBMPrior,
    NormalPrior,
)
from skevae.densities.gaussian_bernoulli import EXACT_EVALUATION_UNITS
from skevae.likelihoods import GaussianMixtureLikelihood
from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.samplers import SAMPLERS

X_IRIS = load_iris().data
X_UNIT = (X_IRIS - X_IRIS.min(axis=0)) / np.ptp(X_IRIS, axis=0)


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


def maker(name):
    def make(**params):
        brief = {"max_iter": 3, "random_state": 0, **params}
        return small_prior(name, n_annealing_steps=20).set_params(**brief)

    return make


MAKERS = {"vae": vae, "rbm": rbm, "normal": NormalPrior, **{name: maker(name) for name in LATER}}
TRAINED = ["vae", "rbm", *LATER]


@pytest.fixture(scope="module", params=MAKERS)
def fitted(request):
    return MAKERS[request.param]().fit(X_IRIS)


@pytest.fixture(scope="module")
def fitted_vae():
    return vae().fit(X_IRIS)


@pytest.fixture(scope="module")
def fitted_binary():
    return vae(likelihood="bernoulli").fit(X_UNIT)


def with_value(value):
    X = X_IRIS.copy()
    X[3, 1] = value
    return X


# --- X that is refused ---------------------------------------------------------------------------

REFUSED = {
    "nan": (with_value(np.nan), ValueError, "X contains NaN"),
    "inf": (with_value(np.inf), ValueError, "X contains infinity"),
    "minus inf": (with_value(-np.inf), ValueError, "X contains infinity"),
    "pandas NA": (
        pd.DataFrame(X_IRIS).astype("Float64").mask(X_IRIS > 7),
        ValueError,
        "X contains NaN",
    ),
    "strings": (np.array([["a", "b", "c", "d"]] * 5), ValueError, "could not convert string"),
    "objects": (np.array([[{}, 1, 2, 3]] * 5, dtype=object), TypeError, "must be a string or a"),
    "empty": (np.empty((0, 4)), ValueError, "0 sample"),
    "no columns": (np.empty((5, 0)), ValueError, "0 feature"),
    "1-D": (X_IRIS[:, 0], ValueError, "Reshape your data"),
    "3-D": (X_IRIS[None], ValueError, "dim 3"),
    "scalar": (3.0, ValueError, "Expected 2D array"),
    "none": (None, ValueError, "Expected 2D array"),
    "complex": (X_IRIS + 1j, ValueError, "Complex data not supported"),
    "sparse matrix": (scipy.sparse.csr_matrix(X_IRIS), TypeError, "dense"),
    "sparse array": (scipy.sparse.coo_array(X_IRIS), TypeError, "dense"),
}

MISSING = ("nan", "pandas NA")


def refused_by(model):
    """What an estimator refuses: those of tables take missing values."""
    takes_missing = model.__sklearn_tags__().input_tags.allow_nan
    return {k: v for k, v in REFUSED.items() if not (takes_missing and k in MISSING)}


@pytest.mark.parametrize("maker", MAKERS)
def test_refused_at_fit(maker):
    for X, error, message in refused_by(MAKERS[maker]()).values():
        model = MAKERS[maker]()
        with pytest.raises(error, match=message):
            model.fit(X)
        with pytest.raises(NotFittedError):
            model.score(X_IRIS)


def test_refused_after_fit(fitted):
    names = ["score", "score_samples", "transform", "reconstruct", "log_likelihood", "energy"]
    for case, (X, error, message) in refused_by(fitted).items():
        for method in [getattr(fitted, name) for name in names if hasattr(fitted, name)]:
            if case != "no columns":  # no wrong values, but the wrong number of columns
                with pytest.raises(error, match=message):
                    method(X)


@pytest.mark.parametrize("maker", TRAINED)
def test_refused_by_partial_fit(maker):
    model = MAKERS[maker]().fit(X_IRIS)
    score = model.score_samples(X_IRIS)
    for X, error, message in refused_by(model).values():
        if np.shape(X) == (5, 0):
            continue
        with pytest.raises(error, match=message):
            model.partial_fit(X)
    assert_array_equal(model.score_samples(X_IRIS), score)


def test_wrong_number_of_columns(fitted):
    names = ["score", "score_samples", "transform", "reconstruct", "partial_fit", "energy", "gibbs"]
    for n_columns in (1, 3, 5):
        X = np.zeros((3, n_columns))
        expected = f"X has {n_columns} features, but {type(fitted).__name__} is expecting 4"
        for method in [getattr(fitted, name) for name in names if hasattr(fitted, name)]:
            with pytest.raises(ValueError, match=expected):
                method(X)


@pytest.mark.parametrize("maker", TRAINED)
def test_one_row_cannot_be_fitted(maker):
    with pytest.raises(ValueError, match=r"1 sample.*minimum of 2 is required"):
        MAKERS[maker]().fit(X_IRIS[:1])


@pytest.mark.parametrize("maker", TRAINED)
def test_one_row_cannot_start_partial_fit_but_can_continue_it(maker):
    model = MAKERS[maker]()
    with pytest.raises(ValueError, match=r"1 sample.*minimum of 2 is required"):
        model.partial_fit(X_IRIS[:1])
    model.partial_fit(X_IRIS)
    assert np.isfinite(model.partial_fit(X_IRIS[:1]).score(X_IRIS))


@pytest.mark.parametrize("scale", [1e160, 1e300])
@pytest.mark.parametrize("maker", TRAINED)
def test_values_whose_squares_overflow(maker, scale):
    # No variance can be computed in float64: that has to be said, not scored as nan.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(ValueError, match=r"(?i)X.*(large|overflow|scale)"):
            MAKERS[maker]().fit(X_IRIS * scale)


@pytest.mark.parametrize("maker", TRAINED)
def test_rows_whose_standardised_squares_overflow(maker):
    # Later rows may be far off those that the standardisation was fixed by.
    model = MAKERS[maker]().partial_fit(1e-12 * X_IRIS)
    before = model.score_samples(1e-12 * X_IRIS)
    with pytest.raises(ValueError, match=r"X has values as large as .* fit a new model"):
        model.partial_fit(1e9 * X_IRIS)
    assert_array_equal(model.score_samples(1e-12 * X_IRIS), before)
    model.partial_fit(X_IRIS)
    assert not np.isnan(model.score_samples(X_IRIS)).any()


@pytest.mark.parametrize("maker", TRAINED)
def test_columns_whose_variance_underflows_are_told(maker):
    for scale in (1e-170, 1e-310):
        with pytest.warns(UserWarning, match="column 0 .* counts as constant"):
            model = MAKERS[maker]().fit(X_IRIS * scale)
        assert np.isfinite(model.score(X_IRIS * scale))


def test_odd_containers_and_sizes():
    masked = np.ma.masked_array(X_IRIS, mask=X_IRIS > 6)
    expected = vae().fit(np.where(X_IRIS > 6, np.nan, X_IRIS))
    assert vae().fit(masked).score(masked) == expected.score(masked)
    with pytest.raises(ValueError, match="NaN"):
        rbm().fit(masked)
    assert np.isfinite(vae().fit(torch.tensor(X_IRIS, dtype=torch.bfloat16)).score(X_IRIS))
    with pytest.raises(ValueError, match="same name"):
        vae().fit(pd.DataFrame(X_IRIS, columns=list("aabc")))
    for params in (
        {"n_components": True},
        {"n_components": 30_000},
        {"hidden_layer_sizes": {8, 9}},
        {"hidden_layer_sizes": {8: 1}},
        {"hidden_layer_sizes": True},
    ):
        (name,) = params
        with pytest.raises((ValueError, TypeError), match=name):
            vae(**params).fit(X_IRIS)
    with pytest.raises(ValueError, match="X"):
        vae().fit(np.array([[10**400, 1], [2, 3]], dtype=object))


# --- X that is taken -----------------------------------------------------------------------------

TAKEN = {
    "float16": X_IRIS.astype(np.float16),
    "float32": X_IRIS.astype(np.float32),
    "long double": X_IRIS.astype(np.longdouble),
    "integers": X_IRIS.astype(int),
    "uint8": X_IRIS.astype(np.uint8),
    "bool": X_IRIS > 3,
    "objects": X_IRIS.astype(object),
    "list": X_IRIS.tolist(),
    "nullable frame": pd.DataFrame(X_IRIS).astype("Float64"),
    "tensor": torch.tensor(X_IRIS),
    "two rows": X_IRIS[:2],
    "three rows": X_IRIS[:3],
    "one column": X_IRIS[:, :1],
    "all equal": np.ones((10, 3)),
    "all zero": np.zeros((10, 3)),
    "a constant column": np.c_[X_IRIS, np.full(150, 1e6)],
    "a nearly constant column": np.c_[X_IRIS, 1 + 1e-12 * X_IRIS[:, 0]],
    "equal columns": np.c_[X_IRIS, X_IRIS],
    "tiny": X_IRIS * 1e-30,
    "large": X_IRIS * 1e30,
    "large in float32": (X_IRIS * 1e30).astype(np.float32),
    "far off": X_IRIS + 1e9,
    "columns of all sizes": X_IRIS * [1e-20, 1.0, 1e10, 1e20],
    "wide": np.random.RandomState(0).normal(size=(20, 300)),
}


@quick_and_slow(
    "maker, case",
    [*product(["vae", "rbm"], TAKEN), *zip(cycle(LATER), TAKEN, strict=False)],
    product(TRAINED, TAKEN),
)
def test_taken(maker, case):
    X = TAKEN[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if maker == "neural":  # after so few epochs and annealing steps
            warnings.filterwarnings("ignore", "ln Z is only known", ConvergenceWarning)
        model = MAKERS[maker]().fit(X)
        assert np.isfinite(model.score_samples(X)).all()
        if hasattr(model, "transform"):
            assert np.isfinite(model.transform(X)).all()
        assert np.isfinite(np.asarray(model.sample(20), dtype=float)).all()
        if maker == "vae":
            assert np.isfinite(np.asarray(model.reconstruct(X), dtype=float)).all()
            result = model.log_likelihood(X, n_draws=100)
            assert np.isfinite(result.standard_error).all()
            assert not np.isnan(result.pareto_k).any()
        for values in model.history_.values():
            assert np.isfinite(values).all()


@pytest.mark.parametrize(
    "maker, params",
    [
        *product(["vae"], [{"likelihood": "gaussian"}, {"likelihood": "gaussian-rowwise"}]),
        *product(["rbm", *LATER], [{}]),
    ],
)
def test_constant_columns_follow_scikit_learns_convention(maker, params):
    # StandardScaler gives them scale 1, so they add a finite and bounded log-density.
    model = MAKERS[maker](**params, max_iter=20).fit(np.c_[X_IRIS, np.full(150, 1e6)])
    X = np.c_[X_IRIS, np.full(150, 1e6)]
    score = model.score_samples(X)
    assert np.isfinite(score).all()
    assert_allclose(model.sample(200)[:, 4].mean(), 1e6, atol=5)
    elsewhere = np.c_[X_IRIS, np.full(150, 1e6 + 10)]
    assert (model.score_samples(elsewhere) < score).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian-rowwise"])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_outliers_at_score_are_improbable_not_nan(likelihood, posterior):
    model = vae(likelihood=likelihood, posterior=posterior).fit(X_IRIS)
    typical = model.score_samples(X_IRIS).min()
    for size in (1e3, 1e6, 1e15, 1e30, 1e100, 1e300):
        for sign in (-1, 1):
            score = model.score_samples(sign * size * X_IRIS)
            assert not np.isnan(score).any()
            assert (score < typical).all()
    single = model.score_samples((1e30 * X_IRIS).astype(np.float32))
    assert not np.isnan(single).any()
    assert (single < typical).all()


@pytest.mark.parametrize("maker", [name for name in MAKERS if name != "vae"])
def test_outliers_of_a_prior_are_improbable_not_nan(maker):
    model = MAKERS[maker]().fit(X_IRIS)
    typical = model.score_samples(X_IRIS).min()
    for size in (-1e300, -1e30, -1e6, 1e6, 1e30, 1e300):
        score = model.score_samples(size * X_IRIS)
        assert not np.isnan(score).any()
        assert (score < typical).all()


# --- optional libraries ---------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["iaf", "iaf-volume-preserving"])
def test_flows_without_zuko_say_what_to_install(posterior, monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)  # which makes its import fail
    message = r"flows.*need zuko.*pip install \"skevae\[flows\]\".*posterior='diagonal'"
    with pytest.raises(ImportError, match=message):
        vae(posterior=posterior).fit(X_IRIS)
    vae(posterior="diagonal").fit(X_IRIS)


# --- the range of binary rows --------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6, 255.0])
def test_bernoulli_needs_the_unit_interval(fitted_binary, value):
    X = X_UNIT.copy()
    X[3, 1] = value
    message = r"likelihood='bernoulli'.*\[0, 1\].*MinMaxScaler"
    with pytest.raises(ValueError, match=message):
        vae(likelihood="bernoulli").fit(X)
    for name in ("score", "score_samples", "log_likelihood", "transform", "reconstruct"):
        with pytest.raises(ValueError, match=message):
            getattr(fitted_binary, name)(X)
    with pytest.raises(ValueError, match=message):
        clone(fitted_binary).partial_fit(X)


def test_bernoulli_takes_booleans_and_integers():
    X = X_UNIT > 0.5
    expected = vae(likelihood="bernoulli").fit(X.astype(float)).score_samples(X.astype(float))
    for same in (X, X.astype(int), X.astype(np.uint8), X.tolist()):
        assert_allclose(vae(likelihood="bernoulli").fit(same).score_samples(same), expected)


def test_bernoulli_takes_constant_columns():
    X = np.c_[X_UNIT, np.zeros(150), np.ones(150)]
    assert np.isfinite(vae(likelihood="bernoulli").fit(X).score_samples(X)).all()


WORDS = [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("model", [rbm(), small_prior("mixture")])
@pytest.mark.parametrize("X", [WORDS, pd.DataFrame(WORDS), [{"a": 1.0}, {"a": 2.0}], ["a", "b"]])
def test_what_is_no_number_is_refused_with_a_remedy(model, X):
    with pytest.raises((TypeError, ValueError), match=r"X holds values .*OneHotEncoder"):
        model.fit(X)


@pytest.mark.parametrize("model", [vae(), rbm(), EnergyImputer(), EnergyOutlierDetector()])
def test_a_dict_is_refused(model):
    with pytest.raises(TypeError, match=r"X is a dict.*pandas.DataFrame\(X\)"):
        model.fit({"a": [1.0, 2.0], "b": [2.0, 3.0]})


# --- parameters ----------------------------------------------------------------------------------

BAD = {
    "n_components": [0, -1, 2.5, "a", None],
    "hidden_layer_sizes": [0, -1, 2.5, "a", (8, 0), (8, -3), (8, 2.5), (8, "a"), [[8], [8]], None],
    "network": ["no such", 3, None],
    "prior": ["no such", 3, None, nn.Linear(2, 2), NormalPrior],
    "posterior": ["no such", None, 1],
    "likelihood": ["no such", None, 1, GaussianMixtureLikelihood],
    "categorical_features": ["no such", 3, [9]],
    "integer_features": ["no such", 3, [9]],
    "handle_unknown": ["no such", None],
    "bounds": ["no such", 3, [1, 2]],
    "mask_rate": [-0.1, 1, "a", None],
    "objective": ["no such", None],
    "partition": ["no such", None],
    "n_draws": [0, -1, 1.5, None],
    "standardize": ["yes", None],
    "kl_warmup": [-0.1, 1.1, "a", None],
    "learning_rate": [0, -1e-3, "a", None],
    "batch_size": [0, -1, 1.5, "all", None],
    "max_iter": [0, -1, 1.5, None],
    "max_time": [0, -1.0, np.nan, "1"],
    "early_stopping": ["yes", None],
    "validation_fraction": [0, 1, 1.5, -0.1, "a", None],
    "n_iter_no_change": [0, -1, 1.5, None],
    "tol": [-1e-9, "a", None],
    "precision": ["float16", None, 32],
    "cuda_graph": ["yes", None, 2],
    "checkpoint_dir": [3, False],
    "ex_post": ["no such", 3, GaussianMixture, nn.Linear(2, 2)],
    "n_score_draws": [0, -1, 1.5, None],
    "warm_start": ["yes", None],
    "device": [3, None, "no such", "", "cuda:99", "meta"],
    "random_state": ["a", 1.5, -1],
    "verbose": [-1, "a"],
}
BAD_RBM = {
    **{name: BAD[name] for name in rbm().get_params() if name in BAD},
    "partition": ["no such", "posterior", "aggregate", None],
    "sampler": ["no such", None, 1],
    "n_gibbs_steps": [0, -1, 1.5, None],
    "n_chains": [0, -1, 1.5, None],
    "learn_scale": ["yes", None],
    "initial_scale": [-0.1, "a", None],
}


SIZES = {"n_components": [0, -1, 1.5, "a", None]}
BAD_LATER = {
    "mixture": {**SIZES, "min_scale": [0, -1.0, "a", None]},
    "vamp": {**SIZES, "learn_weights": ["yes", None]},
    "flow": {
        "n_transforms": [0, -1, 1.5, None],
        "flow": ["no such", None, 1],
        "hidden_layer_sizes": BAD["hidden_layer_sizes"],
    },
    "neural": {
        "hidden_layer_sizes": BAD["hidden_layer_sizes"],
        "network": ["no such", 3, None],
        "bound": [0, -1.0, "a", None],
        "sampler": ["no such", "gibbs", None],
        "n_langevin_steps": [0, -1, 1.5, None],
        "step_size": [0, -0.1, "a", None],
        "partition": ["no such", "posterior", "aggregate", None],
        "n_chains": [0, -1, 1.5, None],
        "n_annealing_steps": [0, -1, 1.5, None],
    },
}
COMMON = [name for name in rbm().get_params() if name in BAD and name not in BAD_LATER["neural"]]
COMMON.remove("n_components")


def is_told(message, parameter, value):
    """Whether parameter and value are named, and not just digits that occur in some bound."""
    told = re.search(rf"(got |=){re.escape(repr(value))}(?![.\w]\w)", message, re.I)
    return told is not None and re.search(rf"\b{parameter}\b", message) is not None


def assert_refused(make, table):
    """Each value of a table is refused by a ValueError or TypeError that tells of it."""
    for parameter, values in table.items():
        for value in values:
            model = make(parameter, value)
            with pytest.raises((ValueError, TypeError)) as caught:
                model.fit(X_IRIS)
            assert is_told(str(caught.value), parameter, value), (parameter, value)
            with pytest.raises(NotFittedError):
                model.score(X_IRIS)


def test_a_value_is_told_where_it_stands_by_itself():
    message = "The 'n' parameter must be an int in the range [0, inf). Got -1 instead."
    assert is_told(message, "n", -1)
    assert is_told("device='no such' is not available.", "device", "no such")
    assert is_told("sizes must hold integers, got (8, 2.5).", "sizes", (8, 2.5))
    assert not is_told(message, "n", 0)
    assert not is_told(message, "n", 1)
    assert not is_told(message, "m", -1)
    assert not is_told("n must be positive, got 1.5.", "n", 1)


def test_every_parameter_is_attacked():
    assert set(BAD) == set(EnergyVAE().get_params())
    assert set(BAD_RBM) == set(GaussianBernoulliRBMPrior().get_params())
    for name, own in BAD_LATER.items():
        assert {*COMMON, *own} == set(small_prior(name).get_params())


def test_bad_parameters_of_the_vae():
    assert_refused(lambda parameter, value: vae(**{parameter: value}), BAD)


def test_bad_parameters_of_the_rbm():
    assert_refused(lambda parameter, value: rbm().set_params(**{parameter: value}), BAD_RBM)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", BAD_LATER)
def test_bad_parameters_of_a_later_prior(name, nested):
    def make(parameter, value):
        prior = small_prior(name).set_params(**{parameter: value})
        return vae(prior=prior) if nested else prior

    assert_refused(make, {**BAD_LATER[name], "max_iter": BAD["max_iter"]})


USED_IN_A_VAE = [
    "n_components",
    "sampler",
    "n_gibbs_steps",
    "partition",
    "n_chains",
    "learn_scale",
    "initial_scale",
]


def test_bad_parameters_of_a_nested_prior():
    def make(parameter, value):
        return vae(prior=GaussianBernoulliRBMPrior(4).set_params(**{parameter: value}))

    assert_refused(make, {name: BAD_RBM[name] for name in USED_IN_A_VAE})


def test_bad_parameters_of_the_normal_prior():
    for parameter in ("device", "random_state"):
        for value in BAD[parameter]:
            model = NormalPrior(**{parameter: value})
            with pytest.raises((ValueError, TypeError), match=parameter):
                model.fit(X_IRIS)
                model.sample()


def test_unknown_parameter():
    with pytest.raises(TypeError, match="no_such"):
        EnergyVAE(no_such=1)
    with pytest.raises(ValueError, match="no_such"):
        EnergyVAE().set_params(no_such=1)
    with pytest.raises(ValueError, match=r"prior__n_components .*prior='grbm' has no parameters"):
        EnergyVAE().set_params(prior__n_components=3)
    changed = EnergyVAE().set_params(prior=rbm(), prior__n_components=3)
    assert changed.prior.n_components == 3


@pytest.mark.parametrize("n_hidden", [EXACT_EVALUATION_UNITS + 1, 1000])
def test_too_many_hidden_units_for_exactness(n_hidden):
    prior = GaussianBernoulliRBMPrior(n_hidden)
    message = rf"partition='exact'.*n_components={n_hidden}.*partition='persistent'"
    for model in (
        vae(prior=prior, partition="exact"),
        vae(prior=clone(prior).set_params(partition="exact")),
        clone(prior).set_params(partition="exact"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(X_IRIS)
        with pytest.raises(NotFittedError):
            model.score(X_IRIS)


def test_nothing_left_to_train_on():
    for maker in (vae, rbm):
        with pytest.raises(ValueError, match=r"validation_fraction=0\.9.*early_stopping=False"):
            maker(validation_fraction=0.9).fit(X_IRIS[:2])


def test_network_that_returns_no_module_or_the_wrong_shape():
    with pytest.raises((TypeError, ValueError), match="network"):
        vae(network=lambda n_inputs, n_outputs, sizes: "no module").fit(X_IRIS)
    with pytest.raises((TypeError, ValueError), match="network"):
        vae(network=lambda n_inputs, n_outputs, sizes: nn.Linear(n_inputs, 3)).fit(X_IRIS)


# --- arguments of the fitted model ---------------------------------------------------------------


def test_bad_number_of_samples(fitted):
    for n_samples in (0, -1, "a", 2.5, None):
        with pytest.raises(ValueError) as caught:
            fitted.sample(n_samples)
        assert is_told(str(caught.value), "n_samples", n_samples)


def test_bad_random_state_of_a_call(fitted):
    calls = [
        lambda seed: fitted.sample(2, random_state=seed),
        lambda seed: fitted.log_likelihood(X_IRIS, random_state=seed),
        lambda seed: fitted.gibbs(X_IRIS, random_state=seed),
    ]
    for name, call in zip(("sample", "log_likelihood", "gibbs"), calls, strict=True):
        for random_state in ("a", 1.5, -1) if hasattr(fitted, name) else ():
            with pytest.raises(ValueError, match="random_state"):
                call(random_state)


@pytest.mark.parametrize("n_draws", [0, -1, 2.5, "a"])
def test_bad_number_of_draws(fitted_vae, n_draws):
    with pytest.raises(ValueError) as caught:
        fitted_vae.log_likelihood(X_IRIS, n_draws=n_draws)
    assert is_told(str(caught.value), "n_draws", n_draws)


@pytest.mark.parametrize("method", ["no such", None, 3])
def test_bad_method(fitted_vae, method):
    with pytest.raises(ValueError, match="method") as caught:
        fitted_vae.log_likelihood(X_IRIS, method=method)
    for words in ("importance", "self_normalized", repr(method)):
        assert words in str(caught.value)


def test_parameters_set_after_fit_are_checked_too():
    model = vae().fit(X_IRIS)
    with pytest.raises(ValueError, match="n_score_draws"):
        model.set_params(n_score_draws=0).score(X_IRIS)
    with pytest.raises(ValueError, match="device"):
        model.set_params(n_score_draws=10, device="no such").score(X_IRIS)


@pytest.mark.parametrize(
    "Z, message",
    [
        (np.zeros((3, 3)), "Z has 3 columns.*2"),
        (np.zeros((3, 1)), "Z has 1 columns.*2"),
        (np.zeros(2), "Reshape your data"),
        (np.full((3, 2), np.nan), "Z contains NaN"),
        (np.full((3, 2), np.inf), "Z contains infinity"),
        (np.empty((0, 2)), "0 sample"),
        (np.array([["a", "b"]]), "could not convert string"),
        (np.zeros((3, 2)) + 1j, "Complex data"),
    ],
)
def test_bad_latents(fitted_vae, Z, message):
    with pytest.raises(ValueError, match=message):
        fitted_vae.inverse_transform(Z)


@pytest.fixture(scope="module")
def fitted_rbm():
    return rbm().fit(X_IRIS)


@pytest.mark.parametrize("n_columns", [3, 5])
def test_bad_hidden_units(fitted_rbm, n_columns):
    with pytest.raises(ValueError, match=f"H has {n_columns} columns.*4"):
        fitted_rbm.inverse_transform(np.zeros((3, n_columns)))


@pytest.mark.parametrize(
    "argument, value",
    [
        ("n_chains", 0),
        ("n_chains", 2.5),
        ("n_steps", 3),
        ("n_steps", "a"),
        ("burn_in", -1),
        ("sampler", "no such"),
        ("random_state", "a"),
    ],
)
def test_bad_argument_of_run_chains(fitted_rbm, argument, value):
    with pytest.raises(ValueError) as caught:
        fitted_rbm.run_chains(**{argument: value})
    assert is_told(str(caught.value), argument, value)


# --- a fit that fails leaves no half-made model ---------------------------------------------------

FAILURES = {
    "no rows left": {"validation_fraction": 0.999},
    "no such device": {"device": "no such"},
}


TOO_LARGE = {
    "vae": {"partition": "exact", "prior__n_components": 100},
    "rbm": {"partition": "exact", "n_components": 100},
    "neural": {"partition": "exact"},
}


@pytest.mark.parametrize(
    "maker, failure",
    [*product(TRAINED, FAILURES.values()), *TOO_LARGE.items()],
)
def test_failed_refit_keeps_the_old_model_or_none(maker, failure):
    model = MAKERS[maker]().fit(X_IRIS)
    score, sample = model.score_samples(X_IRIS), model.sample(3)
    params = clone(model).get_params()
    model.set_params(**failure)
    with pytest.raises(ValueError):
        model.fit(100 * X_IRIS[:60] + 7)
    model.set_params(**params)
    # Anything but what was fitted before, or NotFittedError, is a number that means nothing.
    try:
        again = model.score_samples(X_IRIS)
    except NotFittedError:
        return
    assert_array_equal(again, score)
    assert_array_equal(model.sample(3), sample)


@pytest.mark.parametrize("maker", TRAINED)
def test_failed_first_fit_leaves_no_model(maker):
    model = MAKERS[maker](validation_fraction=0.999)
    with pytest.raises(ValueError):
        model.fit(X_IRIS)
    with pytest.raises(NotFittedError):
        model.score(X_IRIS)
    with pytest.raises(NotFittedError):
        model.sample()
    assert not hasattr(model, "module_")


# --- divergence ----------------------------------------------------------------------------------

TRAININGS = {
    "exact": {"partition": "exact"},
    "persistent": {"partition": "persistent"},
    "no held-out rows": {"early_stopping": False},
    "persistent, no held-out rows": {"partition": "persistent", "early_stopping": False},
    "many steps an epoch": {"batch_size": 16, "partition": "exact"},
    "many persistent steps an epoch": {"batch_size": 16, "partition": "persistent"},
    "no held-out rows, one step an epoch": {"early_stopping": False, "batch_size": 200},
}


WITHOUT_PARTITION = [name for name in TRAININGS if "partition" not in TRAININGS[name]]


RATES = [1e6, 1e12, 1e30]
DIVERGENT = [
    *product(["vae", "rbm"], TRAININGS, RATES),
    *product(["mixture", "vamp", "neural"], WITHOUT_PARTITION, [1e6, 1e30]),
    # Its splines saturate: a poor density long before divergence.
    *product(["flow"], WITHOUT_PARTITION, [1e30]),
]


@quick_and_slow(
    "maker, training, learning_rate",
    all_pairs(TRAINED, TRAININGS, RATES, allowed=lambda *case: case in DIVERGENT),
    DIVERGENT,
)
def test_divergence_warns_and_leaves_finite_scores(maker, training, learning_rate):
    params = {**TRAININGS[training], "learning_rate": learning_rate, "max_iter": 10}
    model = MAKERS[maker](**params)
    with pytest.warns(ConvergenceWarning, match=r"diverged.*learning_rate"):
        model.fit(X_IRIS)
    score = model.score_samples(X_IRIS)
    assert np.isfinite(score).all()
    # The best state is at worst that before the first step; nobody's is 1e10 nats away.
    assert score.min() > -1e4
    assert np.isfinite(model.sample(3)).all()
    for values in model.history_.values():
        assert np.isfinite(values).all()
        assert len(values) == model.n_iter_


@pytest.mark.parametrize("partition", PARTITIONS)
def test_divergence_of_every_partition(partition):
    model = vae(partition=partition, learning_rate=1e6, max_iter=10, batch_size=16)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model.fit(X_IRIS)
    assert np.isfinite(model.score_samples(X_IRIS)).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_divergence_of_every_sampler(sampler):
    model = rbm(partition="persistent", sampler=sampler, learning_rate=1e6, batch_size=16)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model.fit(X_IRIS)
    assert np.isfinite(model.score_samples(X_IRIS)).all()


def test_divergence_at_once_still_has_a_history():
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model = vae(learning_rate=1e6, batch_size=16).fit(X_IRIS)
    assert {"objective", "reconstruction", "energy", "log_partition"} <= set(model.history_)


# Splines saturate and do not diverge; ln Z of a neural energy is annealed anew.
@pytest.mark.parametrize("maker", [name for name in TRAINED if name not in ("flow", "neural")])
def test_divergence_in_partial_fit(maker):
    model = MAKERS[maker]().fit(X_IRIS)
    before = model.score_samples(X_IRIS)
    model.set_params(learning_rate=1e6, batch_size=16)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model.partial_fit(X_IRIS)
    assert_allclose(model.score_samples(X_IRIS), before, atol=1e-3)


# --- the keyboard --------------------------------------------------------------------------------


class Interrupting(nn.Linear):
    """Linear layer at whose n-th training step somebody presses Ctrl-C."""

    steps_left = 0

    def forward(self, x):
        if self.training and torch.is_grad_enabled():
            Interrupting.steps_left -= 1
            if Interrupting.steps_left < 0:
                raise KeyboardInterrupt
        return super().forward(x)


def interrupting(n_inputs, n_outputs, hidden_layer_sizes):
    return Interrupting(n_inputs, n_outputs)


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("n_steps", [0, 1, 7, 31])
def test_keyboard_interrupt_keeps_a_usable_model(n_steps, early_stopping):
    Interrupting.steps_left = n_steps
    model = vae(
        network=interrupting, max_iter=100, batch_size=50, early_stopping=early_stopping, tol=0
    )
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        model.fit(X_IRIS)
    assert model.n_iter_ < 100
    for values in model.history_.values():
        assert len(values) == model.n_iter_
    assert np.isfinite(model.score_samples(X_IRIS)).all()
    assert np.isfinite(model.sample(5)).all()
    assert np.isfinite(model.prior_.log_partition_)
    Interrupting.steps_left = 10**6
    assert np.isfinite(model.partial_fit(X_IRIS).score(X_IRIS))


def test_interrupted_training_got_somewhere():
    Interrupting.steps_left = 10**6
    untrained = vae(network=interrupting, max_iter=1, learning_rate=1e-12).fit(X_IRIS)
    # 2 x 3 layers' steps an epoch of 3 batches; well inside the warm-up of the KL term.
    Interrupting.steps_left = 60
    model = vae(network=interrupting, max_iter=200, batch_size=50, learning_rate=1e-2)
    with pytest.raises(KeyboardInterrupt, match="interrupted") as caught:
        model.fit(X_IRIS)
    assert model.n_iter_ > 2
    assert model.score(X_IRIS) > untrained.score(X_IRIS)
    # and the message names the epoch that was really kept.
    assert "epoch 0" not in str(caught.value)


def test_keyboard_interrupt_of_the_rbm(monkeypatch):
    calls = []

    def interrupt(self, ranks):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return original(self, ranks)

    from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity

    original = GaussianBernoulliDensity.log_partition_among
    monkeypatch.setattr(GaussianBernoulliDensity, "log_partition_among", interrupt)
    model = rbm(max_iter=100)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        model.fit(X_IRIS)
    assert np.isfinite(model.score_samples(X_IRIS)).all()


@pytest.mark.parametrize("name", ["normal", "grbm", *LATER])
def test_a_pass_over_rows_far_from_the_first_leaves_numbers(name):
    model = vae(prior=small_prior(name, n_annealing_steps=10)).fit(np.full((12, 3), 1e9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.partial_fit(np.random.RandomState(0).normal(size=(27, 3)))
        assert np.isfinite(model.score_samples(np.zeros((2, 3)))).all()
        assert np.isfinite(model.prior_.log_partition_)
