"""Bounded columns: what is mapped back lies inside, however far out it was."""

import numpy as np
import pytest

from skevae.estimators.bounds import Bounds
from skevae.estimators.columns import Columns

BOUNDS = {0: (0.0, None), 1: (None, -0.1), 2: (0.1, 0.7), 3: (1e6, None)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extremes_come_back_strictly_inside(dtype):
    columns = Columns(np.zeros((1, 5)), None, None, "error")
    bounds = Bounds(BOUNDS, columns)
    far = np.array([-np.inf, -1e30, -800, -40, 0, 40, 800, 1e30, np.inf], dtype=dtype)
    X = bounds.backward(np.repeat(far[:, None], 5, axis=1))
    assert X.dtype == dtype and np.isfinite(X).all()
    assert (X > bounds.low).all() and (X < bounds.high).all()
    assert np.isfinite(bounds.forward(X)).all()
    assert (np.diff(X, axis=0) >= 0).all()
    holes = bounds.backward(np.full((1, 5), np.nan, dtype))
    assert np.isnan(holes).all()


def test_ordinary_values_come_back_as_they_were():
    columns = Columns(np.zeros((1, 5)), None, None, "error")
    bounds = Bounds(BOUNDS, columns)
    X = np.array([[1e-3, -3.0, 0.3, 1e6 + 1, -7.0], [20.0, -0.2, 0.69, 2e6, 7.0]])
    np.testing.assert_allclose(bounds.backward(bounds.forward(X)), X, rtol=1e-12)
