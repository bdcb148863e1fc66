"""Densities on a grid and pair plots show the numbers of the estimator and of the rows."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skevae import EnergyEnsemble, EnergyVAE, GaussianBernoulliRBMPrior
from skevae.displays import DensityDisplay
from skevae.displays.pairs import OTHERS, coordinate

X_IRIS = load_iris().data

pytestmark = pytest.mark.slow


def centres(mesh):
    corners = mesh.get_coordinates()
    return (corners[1:, 1:] + corners[:-1, :-1]) / 2


# --- a density on a grid --------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["density", "log-density"])
def test_colours_are_the_density(iris, scale):
    X = iris.iloc[:, :2]
    rbm = GaussianBernoulliRBMPrior(3, max_iter=1, random_state=0).fit(X)
    display = DensityDisplay.from_estimator(rbm, X, grid_resolution=15, scale=scale)
    mesh = centres(display.mesh_)
    scores = rbm.score_samples(pd.DataFrame(mesh.reshape(-1, 2), columns=X.columns))
    expected = np.exp(scores) if scale == "density" else scores
    np.testing.assert_allclose(display.mesh_.get_array().ravel(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(display.points_.get_offsets(), X)
    assert [display.ax_.get_xlabel(), display.ax_.get_ylabel()] == list(X.columns)


def test_other_columns_are_integrated_out(mixed, table):
    display = DensityDisplay.from_estimator(mixed, table, features=["b", "a"], grid_resolution=6)
    first, second = display.grid
    for i, j in [(0, 0), (2, 4), (5, 1)]:
        row = table.iloc[:1].assign(a=second[j], b=first[i], kind=None, count=np.nan)
        assert display.log_density[i, j] == pytest.approx(mixed.score(row), abs=1e-6)
    # Rows with a hole in either column have no point.
    present = table[["b", "a"]].dropna()
    np.testing.assert_array_equal(display.points_.get_offsets(), present)


def in_polars(table):
    polars = pytest.importorskip("polars")
    columns = {name: table[name].astype(object).tolist() for name in table}
    return polars.DataFrame(
        {name: [None if v != v else v for v in values] for name, values in columns.items()}
    )


@pytest.mark.parametrize(
    "convert", [in_polars, lambda table: table.set_axis(range(4), axis=1)], ids=["polars", "labels"]
)
def test_frames_of_any_library(convert, mixed, table):
    frame = convert(table)
    names = list(frame.columns)
    model = clone(mixed).fit(frame)
    display = DensityDisplay.from_estimator(
        model, frame, features=[0, 3], grid_resolution=3, n_draws=30
    )
    assert list(display.real) == [str(names[0]), str(names[3])]
    expected = DensityDisplay.from_estimator(
        mixed, table, features=[0, 3], grid_resolution=3, n_draws=30
    )
    np.testing.assert_allclose(display.log_density, expected.log_density, atol=1e-5)


def test_fewer_draws(mixed, table):
    options = {"features": ["a", "b"], "grid_resolution": 3}
    few = DensityDisplay.from_estimator(mixed, table, n_draws=5, **options).log_density
    all_ = DensityDisplay.from_estimator(mixed, table, **options).log_density
    assert (few != all_).any()


@pytest.mark.parametrize("kind", [GaussianMixture, KernelDensity])
def test_density_estimators_of_scikit_learn(kind, iris):
    X = iris.to_numpy()
    model = kind().fit(X[:, :2])
    display = DensityDisplay.from_estimator(model, X[:, :2], grid_resolution=4)
    mesh = centres(display.mesh_).reshape(-1, 2)
    np.testing.assert_allclose(
        display.mesh_.get_array().ravel(), np.exp(model.score_samples(mesh)), atol=1e-12
    )
    pairs = DensityDisplay.from_estimator(kind().fit(X), X, features=[0, 3], n_samples=20)
    assert pairs.axes_.shape == (2, 2)


# --- pairs ----------------------------------------------------------------------------------------


def test_pairs_show_real_and_sampled_rows(vae, iris):
    display = DensityDisplay.from_estimator(vae, iris, n_samples=70, random_state=3, features=3)
    drawn = vae.sample(70, random_state=3)
    assert display.axes_.shape == (3, 3)
    np.testing.assert_array_equal(display.scatters_[0, 2].get_offsets(), drawn.iloc[:, [2, 0]])
    # Below the diagonal at most as many real rows, each of them one of X.
    real = np.asarray(display.scatters_[2, 1].get_offsets())
    assert len(real) == 70
    assert set(map(tuple, real)) <= set(map(tuple, iris.iloc[:, [1, 2]].to_numpy()))
    for name, rows in (("real", iris), ("sampled", drawn)):
        heights, edges, _ = display.marginals_[1, name].get_data()
        expected = np.histogram(rows.iloc[:, 1], edges, density=True)[0]
        np.testing.assert_allclose(heights, expected)
        assert np.sum(heights * np.diff(edges)) == pytest.approx(1.0)


def test_a_table_with_categories_and_holes(mixed, table):
    display = DensityDisplay.from_estimator(mixed, table, n_samples=200, random_state=0)
    drawn = mixed.sample(200, random_state=0)
    assert display.axes_.shape == (4, 4)
    for name, rows in (("real", table), ("sampled", drawn)):
        shares = rows["kind"].value_counts(normalize=True)[["narrow", "wide"]]
        bars = [bar.get_height() for bar in display.marginals_[1, name]]
        np.testing.assert_allclose(bars, shares)
        # Integers have bins of their own.
        heights, edges, _ = display.marginals_[2, name].get_data()
        counts = rows["count"].dropna().astype(int).value_counts(normalize=True)
        expected = [counts.get(int(edge + 0.5), 0.0) for edge in edges[:-1]]
        np.testing.assert_allclose(heights, expected)
    # Points of a category lie around its tick.
    points = np.ma.filled(display.scatters_[1, 0].get_offsets(), np.nan)
    present = table[["a", "kind"]].notna().all(axis=1).to_numpy()
    codes = (table["kind"] == "wide").to_numpy()[present]
    np.testing.assert_array_equal(np.rint(points[present, 1]), codes)
    ticks = [label.get_text() for label in display.axes_[1, 0].get_yticklabels()]
    assert ticks == ["narrow", "wide"]


def test_arrays_of_objects_and_masked_arrays():
    rows = np.array([["a", 1.0, True], ["b", None, False], [None, 3.0, True]], dtype=object)
    display = DensityDisplay.from_samples(rows, rows)
    assert [bar.get_height() for bar in display.marginals_[0, "real"]] == [0.5, 0.5]
    assert display.categories == {"column 0": ["a", "b"], "column 2": [False, True]}
    masked = np.ma.masked_equal(np.array([[1.5, 2.5], [-1.0, 3.5]]), -1.0)
    np.testing.assert_array_equal(
        DensityDisplay.from_samples(masked, masked).real["column 0"], [1.5, np.nan]
    )


def test_polars(plt):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"x": [0.5, None, 2.5], "kind": ["u", "v", None]})
    display = DensityDisplay.from_samples(frame, frame)
    np.testing.assert_array_equal(display.real["x"], [0.5, np.nan, 2.5])
    assert display.categories == {"kind": ["u", "v"]}


def test_rare_categories_are_put_together():
    rows = pd.DataFrame({"kind": list("abcdefghijkl") + list("abcdefg") * 3})
    display = DensityDisplay.from_samples(rows, pd.DataFrame({"kind": ["a", "l", "new", "new"]}))
    heights = [bar.get_height() for bar in display.marginals_[0, "sampled"]]
    np.testing.assert_allclose(heights, [0.25, 0, 0, 0, 0, 0, 0, 0.75])
    labels = [label.get_text() for label in display.axes_[0, 0].get_xticklabels()]
    assert labels == [*"abcdefg", "others"]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"features": ["a", "c"]}, r"features=\['a', 'c'\] .* names 'c'.*a, kind, count, b"),
        ({"features": [0, 4]}, "names 4, which is none of the 4 columns"),
        ({"features": ["a", 0]}, "names a column twice"),
        ({"features": 0}, "'features' parameter .* Got 0"),
        ({"kind": "density"}, "needs two continuous columns, but 4 are chosen"),
        ({"kind": "density", "features": ["a", "kind"]}, "'kind' holds categories or integers"),
        ({"kind": "density", "features": ["a", "count"]}, "'count' holds categories or integers"),
        ({"kind": "cube"}, "'kind' parameter .* Got 'cube'"),
        ({"scale": "log"}, "'scale' parameter .* Got 'log'"),
        ({"n_samples": 0}, "'n_samples' parameter .* Got 0"),
    ],
)
def test_bad_arguments(mixed, table, options, message, plt):
    with pytest.raises(ValueError, match=message):
        DensityDisplay.from_estimator(mixed, table, **options)
    assert not plt.get_fignums()


def test_bad_tables(rbm, iris, plt):
    with pytest.raises(TypeError, match="features='a' .* must be a number of columns, or a list"):
        DensityDisplay.from_samples(iris, iris, features="a")
    with pytest.raises(ValueError, match="same columns in the same order"):
        DensityDisplay.from_samples(iris, iris.to_numpy())
    with pytest.raises(ValueError, match="numbers in one of the tables and categories"):
        DensityDisplay.from_samples(iris, iris.astype(str))
    with pytest.raises(ValueError, match="cannot leave out the other columns"):
        DensityDisplay.from_estimator(rbm, iris, features=2, kind="density")
    with pytest.raises(ValueError, match="sampled must have the columns of real"):
        DensityDisplay({"x": [1.0]}).plot()
    with pytest.raises(ValueError, match="two columns in real"):
        DensityDisplay({"x": [1.0]}, grid=([0.0], [0.0]), log_density=[[0.0]]).plot()
    assert not plt.get_fignums()


def test_grids_stay_inside_the_bounds_of_columns():
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"z": rng.randn(60), "p": rng.gamma(1, size=60), "q": rng.rand(60)})
    bounds = {"p": (0, None), "q": (0, 1)}
    model = EnergyVAE(2, hidden_layer_sizes=(4,), max_iter=2, bounds=bounds, random_state=0)
    ensemble = EnergyEnsemble(model, n_estimators=2, random_state=0)
    for estimator in (model.fit(X), ensemble.fit(X)):
        display = DensityDisplay.from_estimator(
            estimator, X, features=["p", "q"], grid_resolution=5, n_draws=20
        )
        first, second = display.grid
        assert first[0] > 0 and second[0] > 0 and second[-1] < 1
        assert np.isfinite(display.log_density).all()


def test_sampled_categories_that_no_row_has_are_others():
    column = coordinate("c", {"real": np.array(["x", "y"]), "sampled": np.array(["z", "x"])}, "xy")
    assert column.labels == ["x", "y", OTHERS]
    assert_array_equal(column.shares("sampled"), [0.5, 0, 0.5])


def test_random_state_also_seeds_estimators_whose_sample_takes_none():
    mixture = GaussianMixture(2).fit(X_IRIS)
    one, two, other = (
        DensityDisplay.from_estimator(mixture, X_IRIS, random_state=seed).sampled
        for seed in (0, 0, 1)
    )
    name = next(iter(one))
    assert_array_equal(one[name], two[name])
    assert not np.array_equal(one[name], other[name])


def test_max_points_is_named():
    with pytest.raises(ValueError, match="'max_points'"):
        DensityDisplay.from_samples(X_IRIS, X_IRIS, max_points=0)
