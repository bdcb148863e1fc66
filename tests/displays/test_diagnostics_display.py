"""Points are the diagnostics that `log_likelihood` returns; none is lost at the edge."""

import numpy as np
import pytest

from skevae.displays import DiagnosticsDisplay

pytestmark = pytest.mark.slow

NAMES = ["pareto_k", "effective_sample_size", "standard_error"]


def test_points_are_the_diagnostics(vae, iris):
    display = DiagnosticsDisplay.from_estimator(vae, iris[:40])
    result = vae.log_likelihood(iris[:40])
    for name in NAMES:
        rows, values = np.asarray(display.points_[name].get_offsets()).T
        finite = np.isfinite(result[name])
        np.testing.assert_array_equal(rows, np.flatnonzero(finite))
        np.testing.assert_array_equal(values, result[name][finite])
    assert display.share_above_ == pytest.approx(np.mean(result.pareto_k > 0.7))
    assert set(display.threshold_line_.get_ydata()) == {0.7}
    few = DiagnosticsDisplay.from_estimator(vae, iris[:4], n_draws=30, random_state=2)
    expected = vae.log_likelihood(iris[:4], n_draws=30, random_state=2)
    np.testing.assert_array_equal(few.standard_error, expected.standard_error)


def test_what_lies_beyond_the_axes_is_at_their_edges():
    k = [np.inf, -np.inf, 0.5, 0.9, np.nan]
    display = DiagnosticsDisplay(k, [1, 9, 9, 9, 9], [np.inf, 0, 0.1, 0.2, 0.1]).plot()
    # A row without a k-hat counts for neither side.
    assert display.share_above_ == 0.5
    assert "50.0% of 4 rows" in display.axes_[0].get_title()
    for axis, n_inside in zip(display.axes_, [2, 5, 3], strict=True):
        drawn = [c.get_offsets() for c in axis.collections]
        assert len(drawn[0]) == n_inside
        rows = [int(row) for points in drawn[1:] for row, _ in points]
        assert rows == ([0, 1] if n_inside < 5 else [])
        low, high = axis.get_xlim()
        assert low < 0 and high > 4
    # Unreliable rows have a colour of their own, in all panels.
    for name in NAMES:
        rows = np.asarray(display.points_[name].get_offsets())[:, 0].astype(int)
        colours = dict(zip(rows, map(tuple, display.points_[name].get_facecolor()), strict=True))
        assert colours[3] != colours[2]


def test_bad_input(rbm, vae, iris, plt):
    with pytest.raises(TypeError, match="GaussianBernoulliRBMPrior does not have. Pass a fitted"):
        DiagnosticsDisplay.from_estimator(rbm, iris)
    with pytest.raises(ValueError, match="nan for every row.*n_draws of at least 25"):
        DiagnosticsDisplay.from_estimator(vae, iris[:3], n_draws=10)
    with pytest.raises(ValueError, match="Pass those of the same rows"):
        DiagnosticsDisplay([0.1], [1.0, 2.0], [0.1]).plot()
    with pytest.raises(ValueError, match="'n_draws' parameter .* Got 0"):
        DiagnosticsDisplay.from_estimator(vae, iris, n_draws=0)
    assert not plt.get_fignums()
