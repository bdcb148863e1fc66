"""Columns of odd scales, and the two precisions."""

import numpy as np
import pytest
from score_models import quick, rows
from small_priors import LATER, small_prior

STANDARD = rows(200, 2)
STANDARD = (STANDARD - STANDARD.mean(0)) / STANDARD.std(0)
OTHERS = [pytest.param(name, marks=pytest.mark.torture) for name in ("grbm", *LATER)]
PRIORS = ["normal", *OTHERS]
# 100 draws and more: proposals are refined.
N_DRAWS = 128

# Scales, and means in units of them.
ODD = {
    "tiny": ([1e-12, 1.0], 0.0),
    "huge": ([1e12, 1.0], 0.0),
    "tiny and huge": ([1e-12, 1e12], 0.0),
    "far off": ([1.0, 1.0], 1e9),
    "tiny, far off": ([1e-12, 1.0], 1e6),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("scale, mean", ODD.values(), ids=ODD)
def test_scale_and_mean_of_a_column_only_shift_scores(scale, mean, prior):
    def scores(X):
        model = quick(prior=small_prior(prior), max_iter=3, n_score_draws=N_DRAWS).fit(X)
        assert np.isfinite(model.sample(10)).all()
        assert np.isfinite(model.reconstruct(X)).all()
        return model.score_samples(X)

    shifted = scores((STANDARD + mean) * scale)
    # A value at 1e9 spreads has 7 digits left of its deviation.
    np.testing.assert_allclose(
        shifted, scores(STANDARD) - np.log(scale).sum(), rtol=0, atol=1e-5 + 1e-12 * mean
    )


REDUNDANT = {
    "twenty times the same": np.repeat(STANDARD[:, :1], 20, axis=1),
    "equal": STANDARD[:, [0, 0, 1]],
    "opposite": np.c_[STANDARD, -STANDARD],
    "constant but for a row": np.c_[np.arange(200) == 7, STANDARD].astype(float),
    "constant but for a far row": np.c_[1e9 * (np.arange(200) == 7), STANDARD],
}


@pytest.mark.parametrize("X", REDUNDANT.values(), ids=REDUNDANT)
def test_redundant_columns(X):
    model = quick(prior="normal", max_iter=3, n_score_draws=N_DRAWS).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.sample(10)).all()


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian-rowwise", "gaussian-mixture"])
def test_the_two_precisions_agree_to_a_thousandth_of_a_nat(prior, likelihood):
    X = (STANDARD * [1e-3, 1e3] + [0.0, 1e4]).astype(np.float32)
    model = quick(
        prior=small_prior(prior), likelihood=likelihood, max_iter=5, n_score_draws=N_DRAWS
    ).fit(X)
    double, single = model.score_samples(X.astype(np.float64)), model.score_samples(X)
    assert (double.dtype, single.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-3)
