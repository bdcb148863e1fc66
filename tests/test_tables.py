"""Real tables: holes, categories, integers, and one part of a row given another."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import trapezoid
from scipy.stats import multivariate_normal, norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skevae import (
    EnergyEnsemble,
    EnergyImputer,
    EnergyOutlierDetector,
    EnergyVAE,
    GaussianBernoulliRBMPrior,
    VampPrior,
    load_model,
    save_model,
)
from skevae.likelihoods import GaussianMixtureLikelihood
from skevae.utils.random import make_generator

X_IRIS = load_iris().data
# Standard errors within which an estimate has to lie.
SIGMAS = 4


def small(**params):
    defaults = {
        "n_components": 3,
        "hidden_layer_sizes": (16,),
        "learning_rate": 1e-2,
        "batch_size": 64,
        "max_iter": 10,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


def table(n=300, seed=0):
    """Mixed columns that depend on each other, a tenth of their entries missing."""
    rng = np.random.RandomState(seed)
    z = rng.randn(n)
    frame = pd.DataFrame(
        {
            "height": 170 + 10 * z + rng.randn(n),
            "kind": np.where(z + 0.3 * rng.randn(n) > 0, "tall", "short"),
            "count": rng.poisson(np.exp(1 + 0.5 * z)),
            "flag": z > 0.5,
            "size": pd.Categorical.from_codes(
                np.digitize(z, [-0.5, 0.5]), ["S", "M", "L"], ordered=True
            ),
            "rate": (z + rng.randn(n)).astype(np.float32),
        }
    )
    for name in ("height", "kind", "size", "rate"):
        frame.loc[rng.rand(n) < 0.1, name] = None
    return frame


TABLE = table()
COMPLETE = TABLE.dropna()


@pytest.fixture(scope="module")
def on_table():
    return small(max_iter=40, n_score_draws=1000).fit(TABLE)


def linear(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.Linear(n_inputs, n_outputs)


class JointNormal:
    """The law of X of a model with a linear decoder, a normal prior and Gaussian noise."""

    def __init__(self, model):
        decoder, likelihood = model.module_.decoder, model.module_.likelihood
        weight = decoder.weight.detach().double().numpy()
        likelihood = getattr(likelihood, "complete", likelihood)
        scale = likelihood._scale().detach().double().numpy()
        spread, centre = model._standardizer.spread, model._standardizer.centre
        covariance = weight @ weight.T + np.diag(scale**2)
        self.mean = centre + spread * decoder.bias.detach().double().numpy()
        self.covariance = covariance * np.outer(spread, spread)

    def log_density(self, x):
        """Marginal log-density of the observed entries of one row."""
        o = ~np.isnan(x)
        return multivariate_normal(self.mean[o], self.covariance[np.ix_(o, o)]).logpdf(x[o])

    def conditional(self, x):
        """Mean and covariance of the missing entries given the observed ones."""
        m, o = np.isnan(x), ~np.isnan(x)
        gain = np.linalg.solve(self.covariance[np.ix_(o, o)], self.covariance[np.ix_(o, m)]).T
        mean = self.mean[m] + gain @ (x[o] - self.mean[o])
        return mean, self.covariance[np.ix_(m, m)] - gain @ self.covariance[np.ix_(o, m)]


@pytest.fixture(scope="module")
def linear_model():
    # The encoder sees holes in training, so that it proposes well for rows that have some.
    model = EnergyVAE(
        2,
        prior="normal",
        likelihood="gaussian",
        network=linear,
        mask_rate=0.3,
        learning_rate=1e-2,
        batch_size=64,
        max_iter=60,
        n_score_draws=4000,
        random_state=0,
    ).fit(X_IRIS)
    return model, JointNormal(model)


@pytest.fixture(scope="module")
def with_holes():
    X = X_IRIS[::10].copy()
    hidden = np.random.RandomState(1).rand(*X.shape) < 0.4
    hidden[hidden.all(1), 0] = False
    hidden[0] = [False, True, False, True]
    X[hidden] = np.nan
    return X


# --- laws -----------------------------------------------------------------------------------------


def test_marginals_are_those_of_the_joint_normal(linear_model, with_holes):
    model, joint = linear_model
    result = model.log_likelihood(with_holes)
    expected = [joint.log_density(x) for x in with_holes]
    error = np.maximum(result.standard_error, 1e-3)
    assert (np.abs(result.log_likelihood - expected) < SIGMAS * error).all()


def test_imputed_means_are_those_of_the_joint_normal(linear_model, with_holes):
    model, joint = linear_model
    filled = model.impute(with_holes)
    sizes = model.log_likelihood(with_holes).effective_sample_size
    for x, y, size in zip(with_holes, filled, sizes, strict=True):
        missing = np.isnan(x)
        assert_array_equal(y[~missing], x[~missing])
        if missing.any():
            mean, covariance = joint.conditional(x)
            # Resampled at 100 evenly spaced places of the weights, whose draws are not sorted.
            error = np.sqrt(np.diag(covariance)) * np.sqrt(1 / 100 + 1 / size)
            assert (np.abs(y[missing] - mean) < SIGMAS * error).all()


def test_conditional_draws_are_those_of_the_joint_normal(linear_model, with_holes):
    model, joint = linear_model
    row, n = with_holes[0], 1000
    drawn = model.sample(n, given=row, random_state=0)
    missing = np.isnan(row)
    assert_array_equal(drawn[:, ~missing], np.tile(row[~missing], (n, 1)))
    mean, covariance = joint.conditional(row)
    size = min(n, model.log_likelihood(row[None]).effective_sample_size[0])
    variance = np.diag(covariance)
    error = drawn[:, missing].mean(0) - mean
    assert (np.abs(error) < SIGMAS * np.sqrt(variance / size)).all()
    ratio = drawn[:, missing].var(0) / variance
    assert (np.abs(ratio - 1) < SIGMAS * np.sqrt(2 / size)).all()


def test_feature_scores_are_those_of_the_joint_normal(linear_model):
    model, joint = linear_model
    rows = X_IRIS[::15]
    scores = model.score_features(rows)
    for x, score in zip(rows, scores, strict=True):
        for j in range(4):
            hidden = x.copy()
            hidden[j] = np.nan
            (mean,), ((variance,),) = joint.conditional(hidden)
            expected = norm(mean, np.sqrt(variance)).logpdf(x[j])
            assert abs(score[j] - expected) < 0.1


def test_conditionals_obey_the_chain_rule(linear_model):
    model, joint = linear_model
    rows = X_IRIS[::15]
    part = np.where([True, False, True, False], rows, np.nan)
    result = model.log_likelihood(rows, given=[0, 2])
    by_hand = model.score_samples(rows) - model.score_samples(part)
    assert_allclose(result.log_likelihood, by_hand, rtol=1e-10)
    expected = [
        joint.log_density(x) - joint.log_density(p) for x, p in zip(rows, part, strict=True)
    ]
    assert (np.abs(by_hand - expected) < SIGMAS * np.maximum(result.standard_error, 1e-3)).all()


def test_a_marginal_is_the_integral_of_the_joint():
    rng = np.random.RandomState(0)
    z = rng.randn(400)
    X = np.c_[z + 0.3 * rng.randn(400), np.sin(2 * z) + 0.3 * rng.randn(400)]
    model = small(mask_rate=0.3, n_score_draws=500).fit(X)
    grid = np.linspace(-8, 8, 401)
    for value in (-1.0, 0.0, 1.5):
        joint = model.score_samples(np.c_[np.full(401, value), grid])
        total = np.log(trapezoid(np.exp(joint), grid))
        (marginal,) = model.score_samples([[value, np.nan]])
        assert abs(total - marginal) < 0.05


def test_probabilities_of_categories_and_integers_sum_to_the_marginal(on_table):
    rows = COMPLETE[:5]
    columns = {"kind": ["short", "tall"], "flag": [False, True], "size": ["S", "M", "L"]}
    columns["count"] = range(-20, 60)
    for name, values in columns.items():
        frames = [rows.assign(**{name: pd.Series([v] * 5, rows.index)}) for v in values]
        if name == "size":
            frames = [f.astype({"size": TABLE["size"].dtype}) for f in frames]
        scores = on_table.score_samples(pd.concat(frames)).reshape(len(frames), len(rows))
        total = np.logaddexp.reduce(scores)
        marginal = on_table.log_likelihood(rows.assign(**{name: None}))
        error = SIGMAS * marginal.standard_error + 0.02
        assert (np.abs(total - marginal.log_likelihood) < error).all(), name


def test_a_mixed_table_has_total_mass_one():
    frame = pd.DataFrame({"x": TABLE["height"], "kind": TABLE["kind"]}).dropna()
    model = small(max_iter=20, n_score_draws=500).fit(frame)
    grid = np.linspace(100, 240, 351)
    total = sum(
        trapezoid(np.exp(model.score_samples(pd.DataFrame({"x": grid, "kind": kind}))), grid)
        for kind in ("short", "tall")
    )
    assert abs(total - 1) < 0.02


def test_integers_have_total_mass_one():
    frame = TABLE[["count"]]
    model = small(max_iter=20, n_score_draws=500).fit(frame)
    scores = model.score_samples(pd.DataFrame({"count": np.arange(-60, 200)}))
    assert abs(np.exp(scores).sum() - 1) < 0.01


# --- what holes and labels may not change ---------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"mask_rate": 0.2}])
def test_a_row_does_not_see_the_holes_of_others(params):
    model = small(**params).fit(X_IRIS)
    X = X_IRIS[:20].copy()
    X[::3, 1] = np.nan
    alone = np.concatenate([model.score_samples(x[None]) for x in X])
    assert_allclose(model.score_samples(X), alone, rtol=1e-9)
    complete = ~np.isnan(X).any(1)
    assert_allclose(model.score_samples(X)[complete], model.score_samples(X_IRIS[:20])[complete])
    assert_allclose(model.transform(X), np.concatenate([model.transform(x[None]) for x in X]))


def test_a_row_without_entries_has_probability_one(on_table):
    empty = TABLE[:2].astype(object)
    empty[:] = None
    assert_array_equal(on_table.score_samples(empty), 0)
    result = on_table.log_likelihood(empty)
    assert_array_equal(result.standard_error, 0)


def test_labels_do_not_matter():
    one = small().fit(TABLE)
    renamed = TABLE.assign(kind=TABLE["kind"].map({"short": "A", "tall": "B"}))
    two = small().fit(renamed)
    assert_array_equal(one.score_samples(TABLE), two.score_samples(renamed))


def test_indices_masks_and_names_name_the_same_columns():
    codes = np.c_[X_IRIS, load_iris().target]
    frame = pd.DataFrame(codes, columns=list("abcde"))
    expected = small(categorical_features=[4]).fit(codes).score_samples(codes)
    for given, X in (
        ([False] * 4 + [True], codes),
        ([-1], codes),
        (["e"], frame),
        ({"e"}, frame),
        ((np.int64(4),), codes),
    ):
        assert_array_equal(small(categorical_features=given).fit(X).score_samples(X), expected)


def test_names_and_indices_can_be_mixed():
    at = list(TABLE).index("flag")
    mixed, names = small(categorical_features=["kind", at, "size"]), small()
    names.set_params(categorical_features=["kind", "flag", "size"])
    assert_array_equal(mixed.fit(TABLE).score_samples(TABLE), names.fit(TABLE).score_samples(TABLE))


def test_standardisation_shifts_only_densities():
    """Scaling a continuous column shifts the score by minus ln of the factor, where it is there."""
    scaled = TABLE.assign(height=TABLE["height"] * 1000)
    shift = small().fit(scaled).score_samples(scaled) - small().fit(TABLE).score_samples(TABLE)
    expected = np.where(TABLE["height"].isna(), 0, -np.log(1000))
    assert_allclose(shift, expected, atol=1e-2)


# --- rows out look like rows in -------------------------------------------------------------------


def test_frames_come_back_as_they_were(on_table):
    for rows in (
        on_table.sample(50),
        on_table.impute(TABLE),
        on_table.reconstruct(TABLE[:10]),
        on_table.inverse_transform(on_table.transform(TABLE[:10])),
        on_table.sample(5, given=TABLE[:1].assign(height=np.nan)),
    ):
        assert isinstance(rows, pd.DataFrame)
        assert rows.dtypes.to_dict() == TABLE.dtypes.to_dict()
        assert set(rows["kind"]) <= {"tall", "short"}
        assert not rows.isna().any().any()
    filled = on_table.impute(TABLE).reset_index(drop=True)
    for name in TABLE:
        seen = TABLE[name].notna()
        assert_array_equal(filled[name][seen].to_numpy(), TABLE[name][seen].to_numpy())


def test_polars_comes_back_as_polars(on_table):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(
        {
            name: TABLE[name].astype(object).where(TABLE[name].notna(), None).tolist()
            for name in TABLE
        }
    )
    model = small().fit(frame)
    assert model.sample(5).schema == frame.schema
    assert model.impute(frame).null_count().sum_horizontal().item() == 0


def test_arrays_come_back_as_arrays():
    codes = np.c_[X_IRIS, load_iris().target]
    rows = small(categorical_features=[4]).fit(codes).sample(30)
    assert rows.dtype == np.float64
    assert set(rows[:, 4]) <= {0.0, 1.0, 2.0}
    words = np.c_[X_IRIS.astype(object), load_iris().target_names[load_iris().target]]
    rows = small(categorical_features=[4]).fit(words).sample(30)
    assert set(rows[:, 4]) <= set(load_iris().target_names)


@pytest.mark.parametrize("method", ["mean", "median", "mode", "draw"])
def test_imputation_beats_the_marginal(on_table, method):
    truth = table(200, seed=1).dropna()
    hidden = truth.assign(kind=None, height=np.nan)
    filled = on_table.impute(hidden, method=method)
    assert (filled["kind"].to_numpy() == truth["kind"].to_numpy()).mean() > 0.7
    error = filled["height"].to_numpy() - truth["height"].to_numpy()
    assert np.sqrt(np.mean(error**2)) < truth["height"].std() * (1.2 if method == "draw" else 0.9)


def test_an_odd_entry_is_found(on_table):
    row = COMPLETE[COMPLETE["height"] > 180][:1].assign(kind="short")
    scores = on_table.score_features(row)[0]
    assert scores[list(TABLE).index("kind")] < np.log(0.2)
    assert np.isnan(on_table.score_features(row.assign(rate=np.nan))[0, -1])


def test_posteriors_priors_and_likelihoods_take_tables():
    for params in (
        {"prior": "vamp"},
        {"prior": "mixture", "posterior": "iaf"},
        {"likelihood": "gaussian", "objective": "elbo"},
        {"likelihood": "gaussian-rowwise", "posterior": "fixed", "partition": "aggregate"},
        {"standardize": False},
    ):
        model = small(max_iter=3, n_score_draws=50, **params).fit(TABLE)
        assert np.isfinite(model.score_samples(TABLE)).all(), params
    bits = pd.DataFrame((X_IRIS > X_IRIS.mean(0)).astype(int), columns=list("abcd"))
    model = small(max_iter=3, likelihood="bernoulli").fit(bits)
    assert (model.score_samples(bits.astype(float).assign(a=np.nan)) < 0).all()
    assert model.sample(3).dtypes.to_dict() == bits.dtypes.to_dict()


def test_passes_may_meet_the_first_hole_late():
    model = small().partial_fit(X_IRIS)
    X = X_IRIS.copy()
    X[::2, 0] = np.nan
    assert np.isfinite(model.partial_fit(X).score_samples(X)).all()
    assert np.isfinite(cross_val_score(small(max_iter=2), X, cv=3)).all()


# --- thin estimators ------------------------------------------------------------------------------


def test_imputer():
    X = X_IRIS.copy()
    X[::5, 2] = np.nan
    imputer = EnergyImputer(small(mask_rate=0.2, max_iter=40)).fit(X)
    filled = imputer.transform(X)
    error = np.sqrt(np.mean((filled[::5, 2] - X_IRIS[::5, 2]) ** 2))
    assert error < 0.5 * X_IRIS[:, 2].std()
    draws = clone(imputer).set_params(sample_posterior=True).fit(X).transform(X)
    assert (draws[::5, 2] != filled[::5, 2]).all()
    assert set(EnergyImputer(small()).fit(TABLE).transform(TABLE).columns) == set(TABLE)


def test_outlier_detector():
    X = np.r_[X_IRIS, [[20.0, 20, 20, 20]]]
    detector = EnergyOutlierDetector(small(max_iter=30), contamination=0.05).fit(X)
    assert detector.predict(X)[-1] == -1
    assert abs((detector.predict(X) == -1).mean() - 0.05) < 0.02
    assert_allclose(detector.decision_function(X), detector.score_samples(X) - detector.offset_)


def test_weights_of_outlier_detectors_count_rows():
    """With a density that is fitted exactly: a weight of 2 is the row twice, 0 its absence."""
    weights = np.random.RandomState(0).randint(0, 3, len(X_IRIS))
    for contamination in (0.01, 0.1, 0.29, 0.5):
        detector = EnergyOutlierDetector(KernelDensity(), contamination=contamination)
        weighted = clone(detector).fit(X_IRIS, sample_weight=weights)
        repeated = clone(detector).fit(np.repeat(X_IRIS, weights, axis=0))
        assert_allclose(weighted.offset_, repeated.offset_)
        assert_allclose(weighted.offset_, detector.fit(X_IRIS, None, 0.1 * weights).offset_)
        n_below = (repeated.predict(np.repeat(X_IRIS, weights, axis=0)) == -1).sum()
        assert n_below <= contamination * weights.sum() + 1e-9


@pytest.mark.parametrize("contamination", [0.001, 0.1, 0.5])
def test_labels_do_not_depend_on_rounding(contamination):
    detector = EnergyOutlierDetector(KernelDensity(), contamination=contamination).fit(X_IRIS)
    distance = np.abs(detector.decision_function(X_IRIS))
    assert distance.min() > 1e-6


def test_failed_fit_of_outlier_detector_changes_nothing():
    """A value that Bernoulli rows cannot have, in a row that the fit ignores, is no error."""
    X = np.eye(4)
    detector = EnergyOutlierDetector(small(likelihood="bernoulli", max_iter=2)).fit(X)
    before = detector.score_samples(X)
    X_new = np.r_[np.ones((3, 2)), [[0, 7]], np.zeros((3, 2))]
    with pytest.raises(ValueError, match="7"):
        detector.fit(X_new)
    assert_array_equal(detector.score_samples(X), before)
    assert np.isfinite(detector.fit(X_new, sample_weight=[1, 1, 1, 0, 1, 1, 1]).offset_)
    with pytest.raises(ValueError, match="does not take it"):
        detector.set_params(estimator=GaussianMixture()).fit(X, sample_weight=np.ones(4))


# --- bad input ------------------------------------------------------------------------------------


def test_bad_tables_are_refused():
    mixed = TABLE.assign(kind=[1, "a", None] * 100)
    dates = TABLE.assign(day=pd.Timestamp("2020-01-01"))
    huge = TABLE.assign(count=2**60)
    for X, message in (
        (mixed, "'kind' mixes"),
        (dates, "dates"),
        (huge, "2\\^53"),
        (TABLE.assign(rate=np.nan), "'rate'"),
        (TABLE.assign(height=np.inf), "infinity"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            small().fit(X)
    for params, message in (
        ({"categorical_features": ["no such"]}, "'no such'"),
        ({"categorical_features": [17]}, "17"),
        ({"integer_features": [True]}, "mask of 1"),
        ({"integer_features": ["height"]}, "'height'"),
        ({"categorical_features": ["count"], "integer_features": ["count"]}, "both"),
        ({"categorical_features": ["flag"]}, "'kind'.*Name it in categorical_features"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            small(**params).fit(TABLE)


def test_bad_calls_are_refused(on_table):
    odd = TABLE.assign(kind="huge")
    with pytest.raises(ValueError, match=r"'kind'.*'huge'.*handle_unknown"):
        on_table.score_samples(odd)
    known = small(handle_unknown="missing").fit(TABLE)
    assert_array_equal(known.score_samples(odd), known.score_samples(TABLE.assign(kind=None)))
    with pytest.raises(ValueError, match="2.5"):
        on_table.score_samples(TABLE.assign(count=2.5))
    for given, message in ((["nope"], "'nope'"), (list(TABLE), "not all"), ([], "not all")):
        with pytest.raises(ValueError, match=message):
            on_table.log_likelihood(TABLE, given=given)
    with pytest.raises(ValueError, match="one row"):
        on_table.sample(2, given=TABLE[:3])
    with pytest.raises(ValueError, match="no missing entry"):
        on_table.sample(2, given=COMPLETE[:1])
    with pytest.raises(ValueError, match="method"):
        on_table.impute(TABLE, method="nonsense")
    with pytest.raises(ValueError, match="missing"):
        on_table.interpolate(TABLE[TABLE["height"].isna()][:1], COMPLETE[:1])


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weights_are_repetitions_in_law():
    """Rows of weight 3 and 0 move the fit as thrice the rows, and none, would."""
    rng = np.random.RandomState(0)
    X = np.r_[rng.randn(200, 1) - 3, rng.randn(200, 1) + 3, rng.randn(50, 1) + 50]
    weights = np.r_[np.full(200, 3.0), np.full(200, 1.0), np.zeros(50)]
    repeated = np.repeat(X, weights.astype(int), axis=0)
    for model in (
        small(max_iter=30, n_score_draws=100),
        GaussianBernoulliRBMPrior(6, max_iter=60, learning_rate=3e-2, random_state=0),
    ):
        weighted = clone(model).fit(X, sample_weight=weights)
        by_hand = clone(model).fit(repeated)
        assert_allclose(weighted._standardizer.centre, repeated.mean(0))
        assert_allclose(weighted._standardizer.spread, repeated.std(0))
        left = [(m.sample(4000) < 0).mean() for m in (weighted, by_hand)]
        assert_allclose(left, 0.75, atol=0.06)
        score = weighted.score(X, sample_weight=weights)
        assert_allclose(score, weighted.score(repeated), rtol=1e-6)
        assert abs(score - by_hand.score(repeated)) < 0.1


def test_equal_weights_change_nothing_but_rounding():
    one = small().fit(X_IRIS)
    same = small().fit(X_IRIS, sample_weight=np.full(len(X_IRIS), 7.0))
    assert_allclose(same.score_samples(X_IRIS), one.score_samples(X_IRIS), rtol=1e-2, atol=1e-2)


def test_weights_are_routed_and_checked():
    weights = np.ones(len(X_IRIS))
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False),
            small(max_iter=2).set_fit_request(sample_weight=True),
        )
        pipe.fit(X_IRIS, sample_weight=weights)
    for model in (
        small(),
        EnergyImputer(small()),
        EnergyOutlierDetector(small()),
        EnergyEnsemble(small()),
    ):
        for bad, message in (
            (-weights, "[Nn]egative"),
            (0 * weights, "non-zero"),
            ([1.0], "shape|inconsistent"),
        ):
            with pytest.raises(ValueError, match=message):
                model.fit(X_IRIS, sample_weight=bad)
    holes = np.where(np.arange(len(X_IRIS))[:, None] < 75, X_IRIS.round(), np.nan)
    for integers in (None, [0]):
        with pytest.raises(ValueError, match="sample_weight above 0 has no value in column 0"):
            small(integer_features=integers).fit(holes, sample_weight=np.arange(150) >= 75)
    model = small(max_iter=2).partial_fit(X_IRIS, sample_weight=weights)
    assert np.isfinite(model.score(X_IRIS, sample_weight=weights))
    ex_post = small(ex_post=GaussianMixture(2), max_iter=2).fit(X_IRIS, sample_weight=weights)
    assert np.isfinite(ex_post.score(X_IRIS))


# --- bounds ---------------------------------------------------------------------------------------


def test_bounded_columns_have_mass_one_inside_and_none_outside():
    rng = np.random.RandomState(0)
    X = np.c_[rng.gamma(1, size=400), rng.beta(0.7, 0.7, 400), -rng.gamma(2, size=400)]
    bounds = [(0, None), (0, 1), (None, 0)]
    for j, (low, high) in enumerate(bounds):
        x = X[:, [j]]
        model = small(bounds={0: (low, high)}).fit(x)
        drawn = model.sample(2000, random_state=0)
        assert (drawn > (-np.inf if low is None else low)).all()
        assert (drawn < (np.inf if high is None else high)).all()
        # By quadrature over the mapped axis, where the density has no poles.
        u = np.linspace(-25, 25, 501)
        grid = model._bounds.backward(u[:, None])
        slope = np.exp(-model._bounds.log_derivatives(u[:, None])[:, 0])
        inside = (grid > np.nan_to_num(model._bounds.low, neginf=-1e300)) & (
            grid < np.nan_to_num(model._bounds.high, posinf=1e300)
        )
        keep = inside[:, 0]
        mass = np.exp(model.score_samples(grid[keep])) * slope[keep]
        assert abs(trapezoid(mass, u[keep]) - 1) < 0.02
        assert_allclose(model._bounds.backward(model._bounds.forward(x)), x, rtol=1e-9)


def test_bounds_are_those_of_a_transformed_column():
    x = np.random.RandomState(0).gamma(1, size=(300, 2))
    model = small(bounds={0: (0, None)}).fit(x)
    by_hand = np.c_[np.log(x[:, 0]), x[:, 1]]
    plain = small().fit(by_hand)
    expected = plain.score_samples(by_hand) - np.log(x[:, 0])
    assert_allclose(model.score_samples(x), expected, rtol=1e-9)
    by_feature = plain.score_features(by_hand) - np.c_[np.log(x[:, 0]), np.zeros(300)]
    assert_allclose(model.score_features(x), by_feature, rtol=1e-9)
    held_out, train = split_of(model, 300)
    for term, rows in (("validation", held_out), ("objective", train)):
        shift = model.history_[term] - plain.history_[term]
        assert_allclose(shift, -np.log(x[rows, 0]).mean(), rtol=1e-5)
    holes = x.copy()
    holes[::2, 0] = np.nan
    filled = model.impute(holes)
    assert (filled > 0).all()
    assert_array_equal(filled[1::2], x[1::2])


def split_of(model, n_rows):
    """Indices of the rows that a fit held out, and of its training rows."""
    order = torch.randperm(n_rows, generator=make_generator(model._split_seed)).numpy()
    n_held_out = round(model.validation_fraction * n_rows)
    return order[:n_held_out], order[n_held_out:]


def test_history_is_on_the_scale_of_the_entries_and_rows_that_it_is_about():
    """Columns scaled by 2^k: each observed entry of weight w adds -w k ln 2 to the bound."""
    rng = np.random.RandomState(0)
    X = rng.randn(200, 2)
    X[:100, 1] = np.nan
    weights = np.where(np.arange(200) < 100, 0.2, 1.8)
    rate = 0.5
    plain = small(mask_rate=rate, max_iter=3).fit(X, sample_weight=weights)
    scaled = small(mask_rate=rate, max_iter=3).fit(X * [1, 1024], sample_weight=weights)
    held_out, train = split_of(plain, 200)
    for term, rows, share in (("validation", held_out, 1), ("objective", train, 1 - rate)):
        observed = np.average(~np.isnan(X[rows, 1]), weights=weights[rows])
        shift = scaled.history_[term] - plain.history_[term]
        assert_allclose(shift, -share * observed * np.log(1024), rtol=1e-5)


def test_weights_of_the_training_rows_have_mean_one():
    """Terms of the history are averages, whatever the rows that are held out weigh."""
    weights = np.ones(len(X_IRIS))
    model = small(max_iter=1, standardize=False).fit(X_IRIS)
    held_out, _ = split_of(model, len(X_IRIS))
    weights[held_out] = 100.0
    weighted = small(max_iter=1, standardize=False).fit(X_IRIS, sample_weight=weights)
    for term in ("objective", "reconstruction", "energy"):
        assert_allclose(weighted.history_[term], model.history_[term], rtol=1e-4)


def test_imputed_means_are_means_on_the_scale_of_x():
    rng = np.random.RandomState(0)
    x = np.exp(1.5 * rng.randn(400, 1))
    X = np.c_[x, rng.randn(400)]
    model = small(bounds={0: (0, None)}).fit(X)
    holes = np.repeat([[np.nan, 0.3]], 20, axis=0)
    drawn = model.sample(4000, given=holes[0], random_state=1)[:, 0]
    error = np.hypot(drawn.std() / np.sqrt(4000), drawn.std() / np.sqrt(20 * 1000))
    assert abs(model.impute(holes)[:, 0].mean() - drawn.mean()) < SIGMAS * error
    assert np.median(drawn) < drawn.mean() - 2 * SIGMAS * error


def test_imputed_modes_and_medians_of_discrete_columns():
    """a and c each have probability 0.45, b 0.1; 7 has 0.44, but 2 or 3 together more."""
    rng = np.random.RandomState(0)
    table = pd.DataFrame(
        {
            "letter": rng.choice(["a", "b", "c"], 500, p=[0.45, 0.1, 0.45]),
            "count": rng.choice([2, 3, 7], 500, p=[0.28, 0.28, 0.44]),
            "other": rng.randn(500),
        }
    ).astype({"letter": "category"})
    model = small(max_iter=25).fit(table)
    holes = table.iloc[:40].assign(letter=None, count=np.nan)
    holes["letter"] = holes["letter"].astype(table["letter"].dtype)
    medians, modes = model.impute(holes, method="median"), model.impute(holes, method="mode")
    assert set(medians["letter"]) <= {"a", "c"} and set(modes["letter"]) <= {"a", "c"}
    # Where 7 is the most probable by the model itself, it is the mode.
    scores = np.array(
        [
            model.log_likelihood(
                table.iloc[:40].assign(letter=None, count=k).astype(holes.dtypes), given=["other"]
            ).log_likelihood
            for k in (2, 3, 7)
        ]
    )
    clear = scores[2] > scores[:2].max(0) + 0.2
    assert clear.any() and (modes["count"].to_numpy()[clear] == 7).all()


def test_conditionals_of_probabilities_refer_to_one_binary_row():
    """ln p(binary entry | others) is a log-probability, and equals score_features."""
    rng = np.random.RandomState(0)
    X = rng.uniform(0.3, 0.7, size=(100, 12))
    model = small(likelihood="bernoulli", max_iter=5).fit(X)
    found = model.log_likelihood(X, given=list(range(11))).log_likelihood
    assert (found < 0.0).all()
    assert_allclose(found, model.score_features(X)[:, 11], atol=0.1)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_booleans_named_as_integers_stay_booleans(library):
    frames = pytest.importorskip(library)
    X = frames.DataFrame({"flag": [True, False] * 20, "x": np.arange(40.0)})
    rows = small(integer_features=["flag"], max_iter=2).fit(X).sample(5)
    assert str(rows["flag"].dtype).startswith(("bool", "Boolean"))


def test_rows_keep_the_index_of_the_table():
    table = pd.DataFrame(X_IRIS.copy(), columns=list("abcd"), index=range(1000, 1150))
    table.loc[1003, "a"] = np.nan
    for params in ({}, {"bounds": {"b": (0, None)}}):
        model = small(max_iter=2, **params).fit(table)
        latents = model.set_output(transform="pandas").transform(table)
        for rows in (
            model.impute(table),
            model.reconstruct(table),
            model.inverse_transform(latents),
        ):
            assert rows.index.equals(table.index)
        assert table.fillna(model.impute(table)).notna().all().all()


def test_lists_and_arrays_of_strings_keep_their_categories():
    for X in (
        [[1.5, "a"], [2.5, "b"], [3.5, np.nan]] * 10,
        np.array([["1", "a"], ["2", "b"]] * 10),
    ):
        model = small(max_iter=2, categorical_features=[1]).fit(X)
        assert model._columns.categories[1] == ["a", "b"]
        assert set(model.sample(20)[:, 1]) <= {"a", "b"}
        assert model.impute([[1.5, None]])[0, 1] in ("a", "b")


def test_given_is_finite_and_knows_the_missing_value_of_pandas():
    model = small(max_iter=2).fit(TABLE)
    with pytest.raises(ValueError, match="infinite value in column 'height'"):
        model.sample(given={"height": np.inf})
    assert len(model.sample(3, given={"height": pd.NA, "kind": TABLE["kind"].iloc[0]})) == 3


def test_numbers_of_numpy_are_parameters(tmp_path):
    """As a search over np.arange passes them; also in files."""
    two = np.int64(2)
    prior = GaussianBernoulliRBMPrior(two, learn_scale=np.True_)
    model = EnergyVAE(
        two,
        hidden_layer_sizes=(np.int64(8),),
        prior=prior,
        likelihood=GaussianMixtureLikelihood(n_components=two),
        max_iter=two,
        n_draws=two,
        n_score_draws=np.int64(120),
        mask_rate=np.float64(0.2),
        random_state=np.int64(0),
    )
    holes = np.where(np.arange(600).reshape(150, 4) % 7 == 0, np.nan, X_IRIS)
    score = model.fit(holes).score(holes)
    save_model(model, tmp_path / "model")
    assert load_model(tmp_path / "model").score(holes) == score
    assert np.isfinite(model.certify(16, n_draws=two).lower)
    assert not np.isnan(model.impute(holes)).any()
    VampPrior(two, learn_weights=np.True_, max_iter=two).fit(X_IRIS)


def test_weights_may_be_a_nullable_series():
    weights = pd.Series([1] * 150, dtype="Int64")
    model = small(max_iter=2).fit(X_IRIS, sample_weight=pd.Series(X_IRIS[:, 0] > 5))
    assert model.score(X_IRIS, sample_weight=weights) == model.score(X_IRIS)


def test_mask_rate_can_be_raised_after_a_fit():
    model = small(warm_start=True, max_iter=3).fit(X_IRIS)
    before = model.score(X_IRIS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        model.set_params(mask_rate=0.2).fit(X_IRIS)
        model.partial_fit(X_IRIS)
    assert model.score(X_IRIS) > before - 0.5 and np.isfinite(model.history_["objective"]).all()


def test_bad_bounds_are_refused():
    x = np.abs(X_IRIS) + 0.1
    for bounds, message in (
        ({9: (0, 1)}, "9"),
        ({0: 3}, "column 0"),
        ({0: (1, 1)}, "ascend"),
        ({0: (5, None)}, r"X\[.*column 0.*strictly inside"),
    ):
        with pytest.raises(ValueError, match=message):
            small(bounds=bounds).fit(x)
    with pytest.raises(ValueError, match="'count', which is not continuous"):
        small(bounds={"count": (0, None)}).fit(TABLE)


@pytest.mark.parametrize("kinds", [{}, {"integer_features": None, "categorical_features": None}])
@pytest.mark.parametrize("library", ["numpy", "nullable", "polars"])
def test_columns_hold_what_their_dtypes_can(library, kinds):
    rng = np.random.RandomState(0)
    columns = {
        "few": np.abs(2 * rng.normal(size=40)).astype(np.uint8),
        "either": rng.normal(size=40) > 0,
        "real": rng.normal(size=40),
    }
    if library == "polars":
        frame = pytest.importorskip("polars").DataFrame(columns)
    else:
        frame = pd.DataFrame(columns)
        frame = frame.convert_dtypes() if library == "nullable" else frame
    model = EnergyVAE(
        2, hidden_layer_sizes=(4,), prior="normal", max_iter=2, random_state=0, **kinds
    ).fit(frame)
    for rows in (model.sample(300), model.reconstruct(frame)):
        assert list(rows.dtypes) == list(frame.dtypes)
        # Neither cut off nor wrapped around: -1 would be 255.
        assert 0 <= rows["few"].min() and rows["few"].max() < 20
    assert 0 < model.sample(300)["either"].mean() < 1


def test_weights_below_the_range_of_float32_count_as_none():
    X = np.random.RandomState(0).normal(size=(40, 2))
    weight = np.where(np.arange(40) < 3, 1.0, 1e-50)
    model = EnergyVAE(2, hidden_layer_sizes=(4,), prior="normal", max_iter=2, random_state=0)
    scores = model.fit(X, sample_weight=weight).score_samples(X)
    expected = model.fit(X[:3], sample_weight=weight[:3]).score_samples(X)
    np.testing.assert_array_equal(scores, expected)


def test_given_values_of_bounded_columns_are_returned_unchanged():
    X = X_IRIS[:, :3]
    model = small(bounds={0: (4, 9), 1: (0, None)}).fit(X)
    for value in np.random.RandomState(0).uniform(4.1, 8.9, 20):
        assert (model.sample(3, given={0: value})[:, 0] == value).all()
        assert (model.sample(3, given=[value, np.nan, 1.4])[:, 0] == value).all()


def test_conditioning_on_values_out_of_reach_is_refused():
    model = small().fit(X_IRIS)
    far = np.array([[1e200, np.nan, 1.4, 0.2]])
    for call in (
        lambda: model.impute(far),
        lambda: model.sample(3, given={0: 1e200}),
        lambda: model.sample(3, given=far),
    ):
        with pytest.raises(ValueError, match="1e\\+200 is too far"):
            call()
    scores = model.score_features(np.r_[far, X_IRIS[:1]])
    assert_array_equal(scores[0], [-np.inf, np.nan, np.nan, np.nan])
    assert np.isfinite(scores[1]).all()


def test_given_works_in_any_context_of_torch():
    X = (X_IRIS > X_IRIS.mean(0)).astype(float)
    model = small(likelihood="bernoulli").fit(X)
    expected = model.log_likelihood(X, given=[0]).log_likelihood
    with torch.device("meta"):
        assert_array_equal(model.log_likelihood(X, given=[0]).log_likelihood, expected)
