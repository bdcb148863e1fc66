"""The benchmarks of tables: holes are what they are called, peers are densities, imputers fair."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.impute import KNNImputer, SimpleImputer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "benchmarks"))

import imputation  # noqa: E402
import mixed  # noqa: E402
import mixed_peers  # noqa: E402
from imputation_peers import one_hot  # noqa: E402

from skevae.estimators.columns import Columns  # noqa: E402


def small_table(n=300, holes=False):
    """A number, an integer and a category that depend on one latent."""
    rng = np.random.RandomState(0)
    z = rng.randn(n)
    kind = np.select([z < -0.5, z < 0.5], ["a", "b"], "c")
    count = rng.poisson(np.exp(0.5 + 0.4 * z)).astype(float)
    frame = pd.DataFrame({"x": 10 * z + 3 * rng.randn(n), "count": count, "kind": kind})
    return frame.mask(rng.rand(n, 3) < 0.1) if holes else frame


def all_rows(frame):
    """Rows on a grid of all columns, and the width of a cell of x."""
    x = np.linspace(-80, 80, 400)
    cells = [x, np.arange(0.0, 20.0), ["a", "b", "c"]]
    grid = pd.MultiIndex.from_product(cells, names=frame.columns)
    return grid.to_frame(index=False), x[1] - x[0]


def kinds_of(frame):
    return Columns(frame, "from_dtype", ["count"], "error")


# --- densities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("integer", [False, True])
def test_kernels_of_a_column_sum_to_one_and_repeated_values_are_only_faster(integer):
    rng = np.random.RandomState(1)
    train = rng.poisson(4, 200).astype(float)
    at = np.arange(-20.0, 40.0) if integer else np.linspace(-20, 40, 3001)
    density = np.exp(mixed.column_score(train, at, integer))
    assert_allclose(density.sum() * (1 if integer else at[1] - at[0]), 1, atol=0.01)


def test_densities_that_are_never_zero_are_densities():
    frame = small_table()
    columns, (rows, width) = kinds_of(frame), all_rows(frame)

    def narrow(columns, train, test, seed):
        return np.where(test["x"].between(0, 10) & (test["count"] == 0), -np.log(30.0), -np.inf)

    scores = mixed.never_zero(narrow)(columns, frame, rows, 0)
    assert np.isfinite(scores).all()
    assert_allclose(np.exp(scores).sum() * width, 1, atol=0.02)
    assert mixed.never_zero(lambda *arguments: None)(columns, frame, rows, 0) is None


@pytest.mark.parametrize("holes", [False, True])
def test_sum_product_network_is_a_density(holes):
    pytest.importorskip("spflow")
    frame = small_table(holes=holes)
    rows, width = all_rows(frame)
    scores = mixed_peers.spflow_density(kinds_of(frame), frame, rows, 0)
    assert_allclose(np.exp(scores).sum() * width, 1, atol=0.01)


def test_vine_is_a_density_and_wants_complete_rows():
    pytest.importorskip("pyvinecopulib")
    frame = small_table()
    rows, width = all_rows(frame)
    seen = rows[rows["count"] <= frame["count"].max()]
    scores = mixed_peers.vine_density(kinds_of(frame), frame, seen, 0)
    assert_allclose(np.exp(scores).sum() * width, 1, atol=0.05)
    assert mixed_peers.vine_density(kinds_of(frame), small_table(holes=True), seen, 0) is None


# --- holes and imputers ---------------------------------------------------------------------------


def test_holes_given_a_column_spare_it_and_follow_it():
    truth = small_table(4000).astype({"kind": "category"})
    removed = imputation.at_random_given_a_column(truth, 0.3, np.random.RandomState(0))
    spared = np.flatnonzero(~removed.any(axis=0))
    assert len(spared) == 1
    others = np.delete(removed, spared, axis=1)
    assert_allclose(others.mean(), 0.3, atol=4 * np.sqrt(0.21 / others.size))
    driver = truth.iloc[:, spared[0]]
    driver = driver.cat.codes if driver.dtype == "category" else driver
    for column in others.T:
        assert spearmanr(driver, column).statistic > 0.3


def test_one_hot_keeps_what_is_there_and_fills_categories_by_the_most_frequent():
    truth = small_table(holes=True).astype({"kind": "category"})
    for imputer in (SimpleImputer(), KNNImputer()):
        filled = one_hot(imputer, truth)
        there = truth.notna().to_numpy()
        assert not filled.isna().any().any()
        assert_array_equal(filled["kind"][there[:, 2]], truth["kind"][there[:, 2]])
        assert_allclose(filled["x"][there[:, 0]], truth["x"][there[:, 0]])
        if isinstance(imputer, SimpleImputer):
            assert set(filled["kind"][~there[:, 2]]) == {truth["kind"].mode()[0]}


def test_errors_are_those_of_the_removed_entries():
    truth = small_table().astype({"kind": "category"})
    removed = np.zeros(truth.shape, dtype=bool)
    removed[:10] = True
    filled = truth.astype({"kind": object})
    filled.loc[10:, "x"] += 1e6
    assert imputation.errors(truth, filled, removed) == {"rmse": 0.0, "wrong": 0.0}
    filled.loc[:9, ["x", "count"]] += truth[["x", "count"]].std() * 2
    filled.loc[:4, "kind"] = "none"
    found = imputation.errors(truth, filled, removed)
    assert found == pytest.approx({"rmse": 2.0, "wrong": 0.5})
