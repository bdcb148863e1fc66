"""Columns of odd scales: what is told about them."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import config_context

from skevae.estimators.standardizer import Standardizer

STANDARD = np.random.RandomState(0).normal(size=(1000, 2))


def told(X, **params):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Standardizer(X, **{"enabled": True, **params})
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "mean, spread, dtype",
    [(1e9, 1e-5, np.float64), (1e9, 100.0, np.float32), (-2e5, 1.0, np.float32)],
)
def test_columns_whose_digits_are_lost_are_named(mean, spread, dtype):
    X = (STANDARD * [1.0, spread] + [0.0, mean]).astype(dtype)
    (message,) = told(X)
    assert "Column 1 of X is narrow and far from zero" in message
    assert "Subtract a constant" in message and np.dtype(dtype).name in message


def test_what_counts_as_constant_though_it_is_not_is_told():
    X = np.repeat(STANDARD, 1000, axis=0) * [1.0, 0.01] + [0.0, 1e9]
    (message,) = told(X)
    assert "Column 1" in message and "counts as constant" in message


@pytest.mark.parametrize(
    "mean, spread, dtype",
    [
        (1e9, 1e-3, np.float64),
        (1e9, 1.0, np.float64),
        (0.0, 1e-12, np.float32),
        (0.0, 1e12, np.float32),
        (1e4, 1.0, np.float32),
        (1.0, 1.0, np.float64),
        (1e9, 0.0, np.float64),
        (1e9, 0.0, np.float32),
    ],
)
def test_nothing_is_told_of_columns_that_have_their_digits_or_are_constant(mean, spread, dtype):
    X = (STANDARD * [1.0, spread] + [0.0, mean]).astype(dtype)
    assert told(X) == []
    X[::3, 1] = np.nan
    assert told(X) == []
    assert told(X, sample_weight=np.linspace(0, 2, 1000)) == []


def test_columns_that_are_left_as_they_are_are_not_judged():
    X = STANDARD * [1.0, 1e-5] + [0.0, 1e9]
    assert told(X, enabled=False) == []
    assert told(X, enabled=np.array([True, False])) == []
    assert len(told(X)) == 1


@pytest.mark.parametrize("missing", [slice(0, 300), slice(400, 800), slice(700, 1000)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_column_that_is_missing_or_weightless_in_a_whole_piece(missing, weighted):
    X = STANDARD * [1.0, 3.0] + [0.0, 5.0]
    X[missing, 1] = np.nan
    weights = np.linspace(1, 2, 1000) if weighted else None
    if weighted:
        weights[300:600] = 0.0
    expected = Standardizer(X, True, sample_weight=weights)
    with config_context(working_memory=1e-3):  # pieces of 65 rows
        found = Standardizer(X, True, sample_weight=weights)
    assert np.isfinite(expected.spread).all() and expected.spread[1] > 2
    for name in ("centre", "spread", "log_spread"):
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)
