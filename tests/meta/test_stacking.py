"""Stacking: members fitted outside of a fold, kinds of members weighted by the rows inside."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch.utils.data import DataLoader, TensorDataset

from skevae import (
    EnergyEnsemble,
    EnergyOutlierDetector,
    EnergyVAE,
    GaussianBernoulliRBMPrior,
    load_model,
    save_model,
)
from skevae.meta.stacking import stacking_weights

X_IRIS = load_iris().data
# Standard errors within which an estimate has to lie.
SIGMAS = 4


def small(**params):
    prior = GaussianBernoulliRBMPrior(4)
    settings = {"prior": prior, "max_iter": 3, "n_draws": 2, "n_score_draws": 20}
    return EnergyVAE(2, hidden_layer_sizes=(8,), **settings, **params)


class Broken(GaussianMixture):
    """Scores rows with a value that is no log-density, or fewer rows than there are."""

    def __init__(self, value=np.nan, n_fewer=0, random_state=None):
        super().__init__(random_state=random_state)
        self.value = value
        self.n_fewer = n_fewer

    def score_samples(self, X):
        return np.full(len(X) - self.n_fewer, self.value)


@pytest.fixture(scope="module")
def stack():
    kinds = [GaussianMixture(3), GaussianMixture(1, covariance_type="diag"), small()]
    return EnergyEnsemble(kinds, n_estimators=4, stacking=True, random_state=0).fit(X_IRIS)


# --- weights --------------------------------------------------------------------------------------


@pytest.fixture
def scores():
    return np.random.default_rng(0).normal(size=(2, 50)) - 3000


def test_weights_maximise_the_likelihood(scores):
    def loss(weight):
        return -logsumexp(scores, axis=0, b=np.array([[weight], [1 - weight]])).sum()

    expected = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
    assert 0.1 < expected < 0.9
    weights = stacking_weights(scores, tol=1e-13, n_steps=10_000)
    assert_allclose(weights, [expected, 1 - expected], atol=1e-6)
    # By default the likelihood is at its maximum, up to the tolerance.
    assert loss(stacking_weights(scores)[0]) - loss(expected) <= 50 * 1e-8


def test_a_weight_of_two_is_the_row_twice(scores):
    counts = np.arange(50) % 3
    repeated = stacking_weights(np.repeat(scores, counts, axis=1))
    assert_allclose(stacking_weights(scores, counts.astype(float)), repeated, atol=1e-12)


def test_equal_densities_share_and_hopeless_ones_get_nothing(scores):
    assert_allclose(stacking_weights(scores[[0, 0]]), [0.5, 0.5])
    weights = stacking_weights(np.stack([scores[0], scores[0] - 20]))
    assert_allclose(weights, [1, 0], atol=1e-6)


def test_weights_of_any_size():
    scores = np.array([[0.0, -1000.0, -2.0], [-1000.0, 0.0, -1.0]])
    expected = stacking_weights(scores, np.array([1.0, 2.0, 3.0]))
    for scale in (1e-300, 1e300):
        found = stacking_weights(scores, scale * np.array([1.0, 2.0, 3.0]))
        assert_allclose(found, expected)
    # A row of weight 0 that only a hopeless density allows.
    assert_array_equal(stacking_weights(scores[:, :2], np.array([1.0, 0.0])).round(6), [1, 0])
    scores[0, 1] = scores[1, 0] = -np.inf
    assert_array_equal(stacking_weights(scores[:, :2], np.array([1.0, 0.0])).round(6), [1, 0])
    assert_array_equal(stacking_weights(scores, np.zeros(3)), [0.5, 0.5])


def test_rows_that_a_density_excludes(scores):
    scores[0, 3] = -np.inf
    assert 0 < stacking_weights(scores)[0] < 1
    everywhere = np.concatenate([scores, np.full((2, 1), -np.inf)], axis=1)
    assert_array_equal(stacking_weights(everywhere), stacking_weights(scores))
    assert_array_equal(stacking_weights(np.full((2, 3), -np.inf)), [0.5, 0.5])


# --- the density ----------------------------------------------------------------------------------


def test_score_is_the_logarithm_of_the_weighted_mean_density(stack):
    scores = np.array([member.score_samples(X_IRIS) for member in stack.estimators_])
    expected = np.log(stack.weights_ @ np.exp(scores))
    assert_allclose(stack.score_samples(X_IRIS), expected, rtol=1e-9)
    assert stack.weights_.sum() == pytest.approx(1)
    # Members of one kind have one weight.
    assert np.ptp(stack.weights_.reshape(3, 4), axis=1).max() == 0
    # Iris is three correlated groups.
    assert stack.weights_.reshape(3, 4).sum(axis=1).argmax() == 0


def test_each_row_is_held_out_once(stack):
    refitted, stack = stack, clone(stack).set_params(refit=False).fit(X_IRIS)
    assert_array_equal(stack.held_out_scores_, refitted.held_out_scores_)
    assert_array_equal(stack.weights_, refitted.weights_)
    members = np.reshape(stack.estimators_, (3, 4))
    scores = np.array([[m.score_samples(X_IRIS) for m in kind] for kind in members])
    kinds = stack.weights_.reshape(3, 4).sum(axis=1)
    # For each row there is one fold whose members give the held-out score, and folds are equal.
    by_fold = logsumexp(scores, axis=0, b=kinds[:, None, None])
    same = np.isclose(by_fold, stack.held_out_scores_, rtol=1e-6)
    assert same.any(axis=0).all()
    folds = same.argmax(axis=0)
    assert set(np.bincount(folds)) == {37, 38}
    # That fold's members were fitted to the other rows.
    again = clone(members[0, 1]).fit(X_IRIS[folds != 1])
    assert_allclose(again.means_.sum(0), members[0, 1].means_.sum(0), rtol=0.05)


def test_members_are_fitted_again_to_all_rows(stack):
    # The likelihood of a single Gaussian is greatest for the moments of all rows.
    for member in stack.estimators_[4:8]:
        assert_allclose(member.means_[0], X_IRIS.mean(0))
        assert_allclose(member.covariances_[0], X_IRIS.var(0), atol=1e-5)
    others = stack.estimators_[8:]
    assert len({member.score(X_IRIS) for member in others}) == len(others)


def test_estimators_without_seed_are_fitted_again_once():
    kinds = [KernelDensity(bandwidth=0.3), GaussianMixture()]
    model = EnergyEnsemble(kinds, n_estimators=3, stacking=True, random_state=0).fit(X_IRIS)
    assert [type(member).__name__ for member in model.estimators_] == [
        "KernelDensity",
        *["GaussianMixture"] * 3,
    ]
    folds = clone(model).set_params(refit=False).fit(X_IRIS)
    of_kinds = folds.weights_.reshape(2, 3).sum(axis=1)
    assert_allclose(model.weights_, [of_kinds[0], *[of_kinds[1] / 3] * 3])
    scores = np.array([clone(kind).fit(X_IRIS).score_samples(X_IRIS) for kind in kinds])
    assert_allclose(model.score_samples(X_IRIS), logsumexp(scores, axis=0, b=of_kinds[:, None]))
    assert len(model.sample(20)) == 20


def test_weights_of_rows_count_in_the_second_fit():
    X = X_IRIS[:60]
    counts = np.arange(60) % 3
    weighted = EnergyEnsemble(small(), n_estimators=2, stacking=True, random_state=0)
    weighted.fit(X, sample_weight=counts)
    seeds = [member.random_state for member in weighted.estimators_]
    for member, seed in zip(weighted.estimators_, seeds, strict=True):
        alone = small(random_state=seed).fit(X, sample_weight=counts)
        assert_array_equal(member.score_samples(X), alone.score_samples(X))


def test_held_out_rows_score_lower_than_fitted_ones():
    X = np.random.default_rng(0).normal(size=(60, 3))
    model = EnergyEnsemble(GaussianMixture(8), n_estimators=5, stacking=True, random_state=0)
    gap = model.fit(X).score_samples(X) - model.held_out_scores_
    assert gap.mean() > SIGMAS * gap.std() / np.sqrt(60)


def test_samples_follow_the_weights():
    rng = np.random.default_rng(0)
    kinds = [GaussianMixture(), GaussianMixture()]
    model = EnergyEnsemble(kinds, n_estimators=2, stacking=True, random_state=0)
    model.fit(rng.normal(size=(100, 1)))
    for member, centre in zip(model.estimators_, (-30, -10, 10, 30), strict=True):
        member.fit(centre + rng.normal(size=(100, 1)))
    model.weights_ = np.array([0.1, 0.2, 0.3, 0.4])
    n = 10_000
    shares = np.histogram(model.sample(n), bins=[-50, -20, 0, 20, 50])[0] / n
    error = np.sqrt(model.weights_ * (1 - model.weights_) / n)
    assert (abs(shares - model.weights_) < SIGMAS * error).all()


# --- fit ------------------------------------------------------------------------------------------


def test_it_follows_the_seed(stack):
    again = clone(stack).fit(X_IRIS)
    assert_array_equal(again.weights_, stack.weights_)
    assert_array_equal(again.held_out_scores_, stack.held_out_scores_)
    other = clone(stack).set_params(random_state=1).fit(X_IRIS)
    assert (other.held_out_scores_ != stack.held_out_scores_).any()


def test_without_stacking_kinds_have_equal_weights(stack):
    model = clone(stack).set_params(estimator=stack.estimator[:2], stacking=False).fit(X_IRIS)
    assert_allclose(model.weights_, 1 / 8)
    assert not hasattr(model, "held_out_scores_")
    kinds = [type(member).__name__ for member in model.estimators_]
    assert kinds == ["GaussianMixture"] * 8
    assert [member.n_components for member in model.estimators_] == [3] * 4 + [1] * 4


def test_a_fit_without_stacking_drops_the_held_out_scores(stack):
    model = clone(stack).set_params(estimator=GaussianMixture()).fit(X_IRIS)
    assert hasattr(model, "held_out_scores_")
    assert not hasattr(model.set_params(stacking=False).fit(X_IRIS), "held_out_scores_")


def test_tables():
    rng = np.random.default_rng(0)
    z = rng.normal(size=80)
    kind = pd.Categorical(np.where(z > 0, "tall", "short"), categories=["short", "tall", "none"])
    X = pd.DataFrame({"height": z + 0.1 * rng.normal(size=80), "kind": kind})
    X.loc[3, "height"] = None
    kinds = [small(), small(network="densenet")]
    model = EnergyEnsemble(kinds, n_estimators=2, stacking=True, random_state=0)
    model.fit(X, sample_weight=rng.uniform(size=80))
    assert np.isfinite(model.held_out_scores_).all()
    assert list(model.sample(5).dtypes) == list(X.dtypes)


def test_a_weight_of_zero_is_the_absence_of_the_row():
    weights = np.repeat([0.0, 1.0], [30, 120])
    model = EnergyEnsemble([small(), small(network="densenet")], n_estimators=3, stacking=True)
    model.set_params(random_state=0).fit(X_IRIS, sample_weight=weights)
    fewer = clone(model).fit(X_IRIS[30:], sample_weight=weights[30:])
    assert_allclose(model.weights_, fewer.weights_, rtol=1e-12)
    assert_allclose(model.held_out_scores_[30:], fewer.held_out_scores_, rtol=1e-12)
    assert np.isfinite(model.held_out_scores_[:30]).all()


def test_without_seeds_members_differ_by_their_fold():
    kinds = [KernelDensity(), GaussianMixture()]
    model = EnergyEnsemble(kinds, n_estimators=2, stacking=True, refit=False)
    model.fit(X_IRIS)
    assert np.ptp([m.score_samples(X_IRIS) for m in model.estimators_[:2]], axis=0).min() > 0
    assert model.sample(20, random_state=0).shape == (20, 4)


def test_a_category_in_one_fold_only():
    X = pd.DataFrame({"x": np.arange(20.0), "kind": ["rare", *["a", "b"] * 9, "a"]})
    model = EnergyEnsemble(small(), n_estimators=2, stacking=True, random_state=0)
    with pytest.raises(ValueError, match="'rare'.* declare all categories: in pandas, by"):
        model.fit(X)
    model.fit(X.astype({"kind": "category"}))
    assert np.isfinite(model.held_out_scores_).all()


def test_a_failed_fit_changes_nothing(stack):
    model = clone(stack).fit(X_IRIS)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="held-out rows with NaN"):
        model.set_params(estimator=Broken()).fit(X_IRIS[:, :2])
    assert {**vars(model), "estimator": before["estimator"]} == before


def test_files(stack, tmp_path):
    save_model(stack, tmp_path / "stack")
    loaded = load_model(tmp_path / "stack")
    assert_array_equal(loaded.score_samples(X_IRIS), stack.score_samples(X_IRIS))
    assert_array_equal(loaded.held_out_scores_, stack.held_out_scores_)
    assert loaded.get_params()["estimator"][0].n_components == 3


@pytest.mark.parametrize(
    "params, message",
    [
        ({"estimator": []}, r"estimator=\[\] has no density estimator"),
        ({"estimator": [small(), KernelDensity]}, "'estimator' parameter .* an instance"),
        ({"estimator": [KernelDensity()], "stacking": False}, "KernelDensity.* no random_state"),
        ({"estimator": Broken()}, "Broken.* 38 held-out rows with NaN or infinity"),
        ({"estimator": Broken(np.inf)}, "Broken.* 38 held-out rows with NaN or infinity"),
        ({"estimator": Broken(0.0, 1)}, r"Broken.* shape \(37,\) for 38 rows"),
        ({"n_estimators": 1}, "n_estimators=1 cannot split 150 rows"),
        ({"n_estimators": 151}, "n_estimators=151 cannot split 150 rows"),
        ({"stacking": 2}, "'stacking' parameter"),
    ],
)
def test_bad_parameters(params, message):
    settings = {"n_estimators": 4, "stacking": True, **params}
    with pytest.raises(ValueError, match=message):
        EnergyEnsemble(**settings).fit(X_IRIS)


def test_bad_weights(stack):
    weights = np.eye(150)[3]
    model = clone(stack).set_params(estimator=small())
    with pytest.raises(ValueError, match="n_estimators=4 cannot split 1 row of positive weight"):
        model.fit(X_IRIS, sample_weight=weights)
    with pytest.raises(ValueError, match="fit of estimator=GaussianMixture.* does not take it"):
        clone(stack).fit(X_IRIS, sample_weight=np.ones(150))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_samples_are_frames_whatever_the_members_return(library):
    """GaussianMixture and KernelDensity return arrays, with fractions for integers."""
    frames = pytest.importorskip(library)
    rng = np.random.RandomState(0)
    X = frames.DataFrame({"count": rng.poisson(3, 60), "rate": rng.rand(60)})
    kinds = [KernelDensity(), GaussianMixture(2), small(integer_features=None)]
    for members in (kinds, kinds[:2]):
        model = EnergyEnsemble(members, n_estimators=2, stacking=True, random_state=0).fit(X)
        model.weights_ = np.full(len(model.weights_), 1 / len(model.weights_))
        rows = model.sample(40)
        assert isinstance(rows, frames.DataFrame) and len(rows) == 40
        assert list(rows.columns) == ["count", "rate"]
        assert [str(dtype) for dtype in rows.dtypes] == [str(dtype) for dtype in X.dtypes]
        assert np.isfinite(model.score_samples(rows)).all()


@pytest.mark.parametrize("kind", [TensorDataset, DataLoader, iter])
def test_streams_are_read_once(kind):
    X = X_IRIS.astype(np.float32)
    batches = {
        TensorDataset: [torch.from_numpy(X)],
        DataLoader: [X, 40],
        iter: [[X[:100], X[100:]]],
    }
    for model in (
        EnergyEnsemble(small(), n_estimators=2, stacking=True, random_state=0),
        EnergyEnsemble(small(), n_estimators=2, random_state=0),
        EnergyOutlierDetector(small(random_state=0)),
    ):
        scores = clone(model).fit(kind(*batches[kind])).score_samples(X)
        assert_array_equal(scores, model.fit(X).score_samples(X))


def test_kinds_of_columns_are_those_of_all_rows():
    """A fold without the missing entry would take a column of zeros and ones as continuous."""
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"x": rng.randn(80), "flag": rng.choice([0.0, 1.0], 80)})
    X.loc[7, "flag"] = np.nan
    model = EnergyEnsemble(small(), n_estimators=4, stacking=True, random_state=0).fit(X)
    assert all(member._columns.integer.tolist() == [False, True] for member in model.estimators_)


def test_densities_and_probabilities_are_not_averaged():
    X = pd.DataFrame({"x": X_IRIS[:, 0], "count": np.arange(150) % 4})
    kinds = [small(), GaussianMixture(2)]
    for stacking in (True, False):
        with pytest.raises(ValueError, match=r"(?s)'count'.*densities.*Convert"):
            EnergyEnsemble(kinds, n_estimators=2, stacking=stacking).fit(X)
    model = EnergyEnsemble(kinds, n_estimators=2, stacking=True, random_state=0)
    assert np.isfinite(model.fit(X.astype(float)).score(X.astype(float)))


def test_negative_weights_are_refused():
    weights = np.r_[-np.ones(30), np.ones(120)]
    with pytest.raises(ValueError, match="Negative values"):
        model = EnergyEnsemble(small(), n_estimators=2, stacking=True)
        model.fit(X_IRIS, sample_weight=weights)
