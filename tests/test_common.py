"""The estimators keep scikit-learn's contract: its own checks, and what those leave out."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from small_priors import LATER, small_prior

from skevae import (
    EnergyEnsemble,
    EnergyImputer,
    EnergyOutlierDetector,
    EnergyVAE,
    GaussianBernoulliRBMPrior,
    NormalPrior,
)

X_IRIS = load_iris().data
NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
FRAME = pd.DataFrame(X_IRIS, columns=NAMES, index=[f"row {i}" for i in range(len(X_IRIS))])


def small_vae(**params):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "prior": GaussianBernoulliRBMPrior(4),
        "max_iter": 3,
        "n_draws": 2,
        "n_score_draws": 20,
        "batch_size": 64,
    }
    return EnergyVAE(**{**defaults, **params})


def small_rbm(**params):
    return GaussianBernoulliRBMPrior(4, **{"max_iter": 3, **params})


def later_priors(**params):
    """Priors besides those two, trained for as short as can be."""
    brief = {"n_annealing_steps": 20, "n_langevin_steps": 2, "max_iter": 2}
    return [small_prior(name, **brief, **params) for name in LATER]


def small_meta(**params):
    """Estimators that make use of a density."""
    return [
        EnergyImputer(small_vae(mask_rate=0.2), **params),
        EnergyOutlierDetector(small_vae(), **params),
        EnergyEnsemble(small_vae(), n_estimators=2, **params),
    ]


# Every public estimator, and other settings of the largest.
ESTIMATORS = [small_vae(), small_rbm(), NormalPrior(), *later_priors(), *small_meta()]
# Those that model tables with missing values; scikit-learn asks the others to refuse them.
TAKE_MISSING_VALUES = (EnergyVAE, EnergyImputer, EnergyOutlierDetector, EnergyEnsemble)
VARIANTS = [small_vae(ex_post=GaussianMixture()), EnergyVAE(max_iter=2)]
TRANSFORMERS = [small_vae(random_state=0), small_rbm(random_state=0)]
DENSITIES = [*TRANSFORMERS, NormalPrior(random_state=0), *later_priors(random_state=0)]


@pytest.fixture
def no_warnings():
    """Turn all warnings into errors, those too that torch issues once for each process."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(always)


def class_name(estimator):
    return type(estimator).__name__


@pytest.fixture(scope="module", params=TRANSFORMERS, ids=class_name)
def on_array(request):
    return clone(request.param).fit(X_IRIS)


@pytest.fixture(scope="module", params=TRANSFORMERS, ids=class_name)
def on_frame(request):
    return clone(request.param).fit(FRAME)


# --- scikit-learn's checks ------------------------------------------------------------------------


@pytest.fixture
def array_api(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # one check skips itself otherwise


def stochastic_weights(estimator):
    """The one check that expects a training by minibatches to be the same to nine digits.

    Rows of weight 2 and rows that stand there twice fall into other minibatches. That the fits are
    equal in law is tested beside the other laws of tables.
    """
    if not isinstance(estimator, EnergyVAE | GaussianBernoulliRBMPrior | EnergyOutlierDetector):
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": "minibatches differ: equal in law"}


@pytest.mark.filterwarnings("ignore:ln Z is only known")  # annealed in so few steps
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=stochastic_weights)
def test_scikit_learn(estimator, check, array_api):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(VARIANTS, expected_failed_checks=stochastic_weights)
def test_scikit_learn_with_other_settings(estimator, check, array_api):
    check(estimator)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, *VARIANTS], ids=class_name)
def test_no_tag_turns_a_check_off(estimator):
    tags = estimator.__sklearn_tags__()
    assert not tags._skip_test
    assert not tags.no_validation
    assert not tags.non_deterministic
    assert tags.requires_fit
    assert tags.input_tags.two_d_array
    assert tags.input_tags.allow_nan == isinstance(estimator, TAKE_MISSING_VALUES)


# --- names and containers -------------------------------------------------------------------------


def test_feature_names_out(on_array):
    prefix = type(on_array).__name__.lower()
    expected = [f"{prefix}{i}" for i in range(on_array.transform(X_IRIS).shape[1])]
    assert list(on_array.get_feature_names_out()) == expected


def test_set_output_pandas(on_frame):
    model = clone(on_frame).set_output(transform="pandas")
    for Z in (model.fit_transform(FRAME), model.transform(FRAME)):
        assert isinstance(Z, pd.DataFrame)
        assert list(Z.columns) == list(model.get_feature_names_out())
        assert list(Z.index) == list(FRAME.index)
    assert_array_equal(Z.to_numpy(), on_frame.transform(FRAME))


def test_set_output_pandas_inside_other_methods(no_warnings):
    model = small_vae(random_state=0).set_output(transform="pandas").fit(FRAME)
    by_hand = model.inverse_transform(model.transform(FRAME))
    assert_allclose(model.reconstruct(FRAME), by_hand, rtol=1e-12)


def test_frame_and_array_give_one_model(on_array, on_frame):
    assert list(on_frame.feature_names_in_) == NAMES
    assert not hasattr(on_array, "feature_names_in_")
    if type(on_array) is type(on_frame):
        # Columns of a frame are summed in another order, which can move a float32 rounding.
        assert_allclose(on_frame.score_samples(FRAME), on_array.score_samples(X_IRIS), rtol=1e-5)


def test_no_spurious_warning_on_a_frame(on_frame, no_warnings):
    on_frame.score(FRAME)
    on_frame.transform(FRAME)
    if isinstance(on_frame, EnergyVAE):
        on_frame.log_likelihood(FRAME)
        on_frame.reconstruct(FRAME)
        clone(on_frame).partial_fit(FRAME).partial_fit(FRAME)


ROW_METHODS = {
    EnergyVAE: ["score", "score_samples", "log_likelihood", "transform", "reconstruct"],
    GaussianBernoulliRBMPrior: ["score", "score_samples", "transform", "energy", "gibbs"],
    NormalPrior: ["score", "score_samples", "energy"],
    **{type(prior): ["score", "score_samples", "energy"] for prior in later_priors()},
}


@pytest.mark.parametrize("estimator", DENSITIES, ids=class_name)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_feature_names_are_checked(estimator):
    model = clone(estimator).fit(FRAME)
    methods = ROW_METHODS[type(model)] + ["partial_fit"] * hasattr(model, "partial_fit")
    for name in methods:
        method = getattr(model, name)
        with pytest.raises(ValueError, match="order"):
            method(FRAME[NAMES[::-1]])
        with pytest.raises(ValueError, match="unseen at fit time"):
            method(FRAME.rename(columns={NAMES[0]: "other"}))
        with pytest.raises(ValueError, match="X has 3 features"):
            method(FRAME[NAMES[:3]].to_numpy())
        with pytest.warns(UserWarning, match="valid feature names"):
            method(X_IRIS)


def test_methods_need_fit():
    for estimator in DENSITIES:
        for name in ROW_METHODS[type(estimator)]:
            with pytest.raises(NotFittedError):
                getattr(clone(estimator), name)(X_IRIS)
        with pytest.raises(NotFittedError):
            clone(estimator).sample()
    with pytest.raises(NotFittedError):
        small_vae().inverse_transform(np.zeros((2, 2)))
    for estimator in (small_rbm(), NormalPrior(), *later_priors()):
        with pytest.raises(NotFittedError):
            estimator.log_partition_  # noqa: B018


# --- parameters -----------------------------------------------------------------------------------


def test_nested_parameters():
    model = small_vae()
    assert model.get_params()["prior__n_components"] == 4
    model.set_params(prior__n_components=6, prior__learn_scale=False, n_draws=3)
    assert (model.prior.n_components, model.prior.learn_scale, model.n_draws) == (6, False, 3)
    assert model.fit(X_IRIS).prior_.components_.shape == (6, 2)
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(prior__no_such=1)


def test_fit_leaves_parameters_and_the_prior_template_alone():
    prior = GaussianBernoulliRBMPrior(4)
    model = small_vae(prior=prior)
    before = model.get_params()
    model.fit(X_IRIS)
    assert model.get_params() == before
    assert model.prior is prior
    assert not [name for name in vars(prior) if name.endswith("_") and not name.startswith("_")]
    assert model.prior_ is not prior


def test_clone_of_a_fitted_model(on_array):
    copy = clone(on_array)
    with pytest.raises(NotFittedError):
        copy.score(X_IRIS)
    assert copy.get_params(deep=False).keys() == on_array.get_params(deep=False).keys()
    assert_array_equal(copy.fit(X_IRIS).score_samples(X_IRIS), on_array.score_samples(X_IRIS))


# --- arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", DENSITIES, ids=class_name)
def test_read_only_input(estimator, no_warnings):
    X = X_IRIS.copy()
    X.flags.writeable = False
    model = clone(estimator).fit(X)
    for name in ROW_METHODS[type(model)]:
        getattr(model, name)(X)
    if isinstance(model, EnergyVAE):
        model.partial_fit(X)
    assert_array_equal(X, X_IRIS)


def test_read_only_latents(no_warnings):
    model = small_vae(random_state=0).fit(X_IRIS)
    Z = model.transform(X_IRIS)
    Z.flags.writeable = False
    assert model.inverse_transform(Z).shape == X_IRIS.shape


@pytest.mark.parametrize("estimator", DENSITIES, ids=class_name)
def test_input_is_not_altered(estimator):
    X = X_IRIS.copy()
    model = clone(estimator).fit(X)
    for name in ROW_METHODS[type(model)]:
        getattr(model, name)(X)
    assert_array_equal(X, X_IRIS)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "reversed": lambda A: A[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda A: np.repeat(A, 2, axis=0)[::2],
    "big-endian": lambda A: A.astype(">f8"),
    "list": lambda A: A.tolist(),
    "frame": pd.DataFrame,
    "object": lambda A: A.astype(object),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_x_does_not_matter(on_array, layout):
    X = LAYOUTS[layout](X_IRIS)
    assert_allclose(on_array.score_samples(X), on_array.score_samples(X_IRIS), rtol=1e-12)
    assert_allclose(on_array.transform(X), on_array.transform(X_IRIS), rtol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_latents_does_not_matter(layout):
    model = small_vae(random_state=0).fit(X_IRIS)
    Z = model.transform(X_IRIS)
    expected = model.inverse_transform(Z)
    assert_allclose(model.inverse_transform(LAYOUTS[layout](Z)), expected, rtol=1e-12)


def test_precision_follows_x(on_array):
    X32 = X_IRIS.astype(np.float32)
    assert on_array.transform(X32).dtype == np.float32
    assert on_array.transform(X_IRIS).dtype == np.float64
    assert on_array.transform(X_IRIS.astype(int)).dtype == np.float64
    # float32 has 24 bits; X itself moves by 6e-8 of its value, and a few operations follow.
    assert_allclose(on_array.transform(X32), on_array.transform(X_IRIS), atol=1e-4)
    assert_allclose(on_array.score_samples(X32), on_array.score_samples(X_IRIS), atol=1e-4)


def test_precision_of_the_decoder_follows_z():
    model = small_vae(random_state=0).fit(X_IRIS)
    Z = model.transform(X_IRIS)
    assert model.inverse_transform(Z).dtype == np.float64
    assert model.inverse_transform(Z.astype(np.float32)).dtype == np.float32
    assert model.reconstruct(X_IRIS.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=class_name)
def test_fit_on_float32_is_the_fit_on_its_values(estimator):
    X32 = X_IRIS.astype(np.float32)
    single, double = clone(estimator).fit(X32), clone(estimator).fit(X32.astype(np.float64))
    assert_allclose(single.score_samples(X_IRIS), double.score_samples(X_IRIS), atol=1e-3)


# --- composition ----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", DENSITIES, ids=class_name)
def test_last_step_of_a_pipeline(estimator):
    model = make_pipeline(StandardScaler(), clone(estimator)).fit(X_IRIS)
    scaled = StandardScaler().fit_transform(X_IRIS)
    alone = clone(estimator).fit(scaled)
    assert model.score(X_IRIS) == alone.score(scaled)


def test_first_step_of_a_pipeline(on_array):
    from sklearn.linear_model import LogisticRegression

    model = make_pipeline(clone(on_array), LogisticRegression())
    assert model.fit(X_IRIS, load_iris().target).predict(X_IRIS).shape == (150,)


@pytest.mark.parametrize("estimator", DENSITIES, ids=class_name)
def test_cross_val_score_needs_no_target(estimator):
    scores = cross_val_score(clone(estimator), X_IRIS, cv=3)
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    assert_array_equal(cross_val_score(clone(estimator), X_IRIS, cv=3), scores)


def grid_search():
    vae = EnergyVAE(
        2,
        prior=GaussianBernoulliRBMPrior(),
        max_iter=3,
        n_draws=2,
        n_score_draws=50,
        random_state=0,
    )
    grid = {
        "energyvae__prior__n_components": [8, 16],
        "energyvae__hidden_layer_sizes": [(32,), (64,)],
    }
    pipeline = make_pipeline(StandardScaler(), vae)
    return GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise").fit(X_IRIS)


@pytest.mark.slow
def test_grid_search_in_two_processes():
    first, second = grid_search(), grid_search()
    scores = first.cv_results_["mean_test_score"]
    assert scores.shape == (4,)
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 4  # the four candidates are four models
    assert_array_equal(second.cv_results_["mean_test_score"], scores)
    assert first.best_params_ == second.best_params_
    assert first.score(X_IRIS) == second.score(X_IRIS)
    best = first.best_estimator_[-1]
    n_hidden = first.best_params_["energyvae__prior__n_components"]
    assert best.prior_.components_.shape == (n_hidden, 2)


def test_random_state_is_reproducible(on_array):
    again = clone(on_array).fit(X_IRIS)
    assert_array_equal(again.score_samples(X_IRIS), on_array.score_samples(X_IRIS))
    assert_array_equal(again.sample(5), on_array.sample(5))
    other = clone(on_array).set_params(random_state=1).fit(X_IRIS)
    assert np.abs(other.score_samples(X_IRIS) - on_array.score_samples(X_IRIS)).max() > 1e-6


@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=class_name)
def test_random_state_instance_is_consumed(estimator):
    rng = np.random.RandomState(0)
    model = clone(estimator)
    first, second = (
        model.set_params(random_state=rng).fit(X_IRIS).score_samples(X_IRIS) for _ in range(2)
    )
    assert np.abs(first - second).max() > 1e-6


def test_random_state_none_is_fresh_each_time():
    for estimator in TRANSFORMERS:
        model = clone(estimator).set_params(random_state=None).fit(X_IRIS)
        assert np.abs(model.sample(3) - model.sample(3)).max() > 1e-6
