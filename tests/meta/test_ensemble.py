"""Several fits as one density: the mean of densities, in scores and in samples."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skevae import (
    EnergyEnsemble,
    EnergyOutlierDetector,
    EnergyVAE,
    GaussianBernoulliRBMPrior,
    NormalPrior,
)

X_IRIS = load_iris().data
# Standard errors within which an estimate has to lie.
SIGMAS = 4


def small(**params):
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


@pytest.fixture(scope="module")
def on_iris():
    return EnergyEnsemble(small(), n_estimators=3, random_state=0).fit(X_IRIS)


@pytest.fixture
def far_apart():
    """Two members, N(-10, 1) and N(10, 1)."""
    rng = np.random.RandomState(0)
    model = EnergyEnsemble(GaussianMixture(), n_estimators=2, random_state=0)
    model.fit(rng.randn(100, 1))
    for member, centre in zip(model.estimators_, (-10, 10), strict=True):
        member.fit(centre + rng.randn(100, 1))
    return model


def member_scores(model, X):
    return np.array([member.score_samples(X) for member in model.estimators_])


# --- scores ---------------------------------------------------------------------------------------


def test_score_is_the_logarithm_of_the_mean_density(on_iris):
    scores = member_scores(on_iris, X_IRIS)
    assert np.ptp(scores, axis=0).min() > 0  # members differ
    expected = logsumexp(scores, axis=0) - np.log(3)
    assert_allclose(on_iris.score_samples(X_IRIS), expected, rtol=1e-12)
    assert_allclose(np.exp(expected), np.exp(scores).mean(axis=0), rtol=1e-9)
    assert on_iris.score(X_IRIS) == pytest.approx(expected.mean(), rel=1e-12)


def test_score_is_no_lower_than_the_mean_of_the_members(on_iris):
    scores, together = member_scores(on_iris, X_IRIS), on_iris.score_samples(X_IRIS)
    assert (together >= scores.mean(axis=0)).all()
    assert (together <= scores.max(axis=0)).all()


def test_density_integrates_to_one():
    X = X_IRIS[:, [0, 2]]
    member = GaussianMixture(3, max_iter=2, init_params="random")
    model = EnergyEnsemble(member, n_estimators=4, random_state=0).fit(X)
    assert np.ptp(member_scores(model, X), axis=0).min() > 0
    axes = [
        np.linspace(m - 6 * s, m + 6 * s, 200) for m, s in zip(X.mean(0), X.std(0), strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    assert np.exp(model.score_samples(grid)).sum() * cell == pytest.approx(1, abs=1e-5)


def test_impossible_rows_have_no_density(on_iris):
    assert np.isneginf(on_iris.score_samples(np.full((1, 4), 1e300))).all()


def test_weights_of_rows_in_the_score(on_iris):
    weights = np.arange(150.0)
    expected = np.average(on_iris.score_samples(X_IRIS), weights=weights)
    assert on_iris.score(X_IRIS, sample_weight=weights) == pytest.approx(expected)


# --- members --------------------------------------------------------------------------------------


def test_one_member_is_that_member(on_iris):
    alone = clone(on_iris).set_params(n_estimators=1).fit(X_IRIS)
    assert_array_equal(alone.score_samples(X_IRIS), alone.estimators_[0].score_samples(X_IRIS))


def test_more_members_keep_the_former(on_iris):
    fewer = clone(on_iris).set_params(n_estimators=2).fit(X_IRIS)
    assert_array_equal(member_scores(fewer, X_IRIS), member_scores(on_iris, X_IRIS)[:2])


def test_members_with_a_seed_of_their_own_differ_all_the_same(on_iris):
    model = EnergyEnsemble(small(random_state=5), n_estimators=3, random_state=0).fit(X_IRIS)
    assert_array_equal(model.score_samples(X_IRIS), on_iris.score_samples(X_IRIS))


def test_weights_of_rows_in_the_fit(on_iris):
    weights = np.repeat([1.0, 0.0], 75)
    model = clone(on_iris).fit(X_IRIS, sample_weight=weights)
    changed = model.score_samples(X_IRIS) - on_iris.score_samples(X_IRIS)
    assert changed[:75].mean() > changed[75:].mean()


@pytest.mark.slow
def test_members_in_processes(on_iris):
    model = clone(on_iris).set_params(n_jobs=2).fit(X_IRIS)
    assert_array_equal(model.score_samples(X_IRIS), on_iris.score_samples(X_IRIS))


# --- samples --------------------------------------------------------------------------------------


def test_samples_come_from_all_members_alike(far_apart):
    n = 10_000
    positive = far_apart.sample(n)[:, 0] > 0
    assert abs(positive.mean() - 0.5) < SIGMAS * 0.5 / np.sqrt(n)
    # In random order: the number of times that neighbours differ is that of fair coins.
    changes = (positive[1:] != positive[:-1]).mean()
    assert abs(changes - 0.5) < SIGMAS * 0.5 / np.sqrt(n)


def test_samples_follow_the_seed(on_iris):
    assert_array_equal(on_iris.sample(20), on_iris.sample(20))
    assert_array_equal(on_iris.sample(20, random_state=1), on_iris.sample(20, random_state=1))
    assert (on_iris.sample(20) != on_iris.sample(20, random_state=1)).all()
    assert on_iris.sample().shape == (1, 4)


def test_tables_in_and_out():
    rng = np.random.RandomState(0)
    z = rng.randn(60)
    X = pd.DataFrame(
        {
            "height": z + 0.1 * rng.randn(60),
            "kind": np.where(z > 0, "tall", "short"),
            "size": pd.Categorical.from_codes((z > 0.5).astype(int), ["S", "L"], ordered=True),
            "count": rng.poisson(np.exp(z)),
        },
        index=np.arange(60)[::-1],
    )
    X.loc[3, ["height", "kind"]] = None
    model = EnergyEnsemble(small(), n_estimators=2, random_state=0).fit(X)
    assert list(model.feature_names_in_) == list(X.columns)
    assert np.isfinite(model.score_samples(X)).all()
    drawn = model.sample(30)
    assert list(drawn.dtypes) == list(X.dtypes)
    assert list(drawn.index) == list(range(30))
    assert set(drawn["kind"]) <= {"tall", "short"}


# --- wrong input, and company ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "params, message",
    [
        ({"estimator": KernelDensity()}, "estimator=KernelDensity.* has no random_state"),
        ({"estimator": GaussianMixture}, "'estimator' parameter .* an instance"),
        ({"estimator": IsolationForest()}, "'estimator' parameter .* 'sample'"),
        ({"n_estimators": 0}, "'n_estimators' parameter"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        EnergyEnsemble(**params).fit(X_IRIS)


def test_bad_number_of_samples(on_iris):
    with pytest.raises(ValueError, match="'n_samples' parameter"):
        on_iris.sample(0)


def test_in_an_outlier_detector(on_iris):
    detector = EnergyOutlierDetector(clone(on_iris)).fit(X_IRIS)
    assert_array_equal(detector.score_samples(X_IRIS), on_iris.score_samples(X_IRIS))
    assert (detector.predict(X_IRIS) == -1).sum() == 15


def test_a_row_of_weight_zero_may_be_impossible():
    far = np.r_[X_IRIS, [[1e6] * 4]]
    weights = np.r_[np.ones(150), 0]
    model = EnergyEnsemble(KernelDensity(kernel="tophat"), n_estimators=2, stacking=True)
    model.fit(X_IRIS)
    assert model.score(far) == -np.inf
    assert model.score(far, sample_weight=weights) == model.score(X_IRIS)
    fitted = small().fit(X_IRIS)
    huge = np.r_[X_IRIS, [[1e200] * 4]]
    assert fitted.score(huge, sample_weight=weights) == pytest.approx(fitted.score(X_IRIS))


@pytest.mark.parametrize("named", [{"integer_features": [0]}, {"categorical_features": [1]}])
@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame])
def test_columns_named_for_one_member_only_are_refused(named, container):
    X = container(np.rint(X_IRIS))
    for other in (NormalPrior(random_state=0), small()):
        kinds = [small(**named), other]
        with pytest.raises(ValueError, match=r"(?s)For column .*probabilities.*densities"):
            EnergyEnsemble(kinds, n_estimators=2).fit(X)
    both = [small(**named), EnergyEnsemble(small(**named), n_estimators=1)]
    assert np.isfinite(EnergyEnsemble(both, n_estimators=1, random_state=0).fit(X).score(X))


def test_a_stream_is_fitted_in_several_processes():
    batches = iter(np.array_split(X_IRIS, 3))
    model = EnergyEnsemble(NormalPrior(), n_estimators=2, n_jobs=2, random_state=0).fit(batches)
    assert model.score(X_IRIS) == pytest.approx(NormalPrior().fit(X_IRIS).score(X_IRIS))
