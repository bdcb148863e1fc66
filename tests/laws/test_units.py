"""Law 10: scores are on the scale of X, to the last digit."""

from functools import cache
from itertools import product

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from pairs import all_pairs, quick_and_slow
from score_models import GAUSSIANS, quick, rows
from sklearn.base import clone
from small_priors import LATER, TRAINED, small_prior

from skevae.posteriors import POSTERIORS

# Rows on a dyadic grid, and 128 of them: means, shifts and factors of 4 are exact in floating
# point, so that a law of the mathematics is a law of the numbers.
X_DYADIC = np.round(rows(128) * 2**10) / 2**10
SCALE, SHIFT = 4.0, np.array([64.0, -128.0, 0.0, 1024.0, 5.0])


def brief(name, **params):
    """Prior whose ln Z, where it is annealed, is so in few steps: the units are all that counts."""
    return small_prior(name, n_annealing_steps=20, **params)


MODELS = {
    **{
        f"{likelihood}-{posterior}-{prior}": quick(
            prior=brief(prior),
            posterior=posterior,
            likelihood=likelihood,
            early_stopping=True,
            max_iter=4,
            n_score_draws=50,
        )
        for likelihood, posterior, prior in [
            *product(GAUSSIANS, POSTERIORS, ["grbm", "normal"]),
            *product(["gaussian"], ["diagonal"], LATER),
        ]
    },
    **{name: brief(name, max_iter=4, random_state=0) for name in TRAINED},
}
LEFT_OUT = set(product(GAUSSIANS, POSTERIORS, ["grbm", "normal"]))
LEFT_OUT -= set(all_pairs(GAUSSIANS, POSTERIORS, ["grbm", "normal"]))
every_model = quick_and_slow(
    "name",
    [(name,) for name in MODELS if name not in {"-".join(case) for case in LEFT_OUT}],
    [(name,) for name in MODELS],
)


@cache
def as_it_is(name):
    """Model fitted to the rows as they are."""
    return clone(MODELS[name]).fit(X_DYADIC)


@every_model
def test_scaling_x_shifts_the_score_by_the_log_jacobian(name):
    plain, scaled = as_it_is(name), clone(MODELS[name]).fit(SCALE * X_DYADIC)
    shift = X_DYADIC.shape[1] * np.log(SCALE)
    score = plain.score_samples(X_DYADIC)
    assert_allclose(scaled.score_samples(SCALE * X_DYADIC), score - shift, rtol=1e-12)
    if hasattr(plain, "transform"):
        assert_array_equal(scaled.transform(SCALE * X_DYADIC), plain.transform(X_DYADIC))
    assert_allclose(scaled.sample(5), SCALE * plain.sample(5), rtol=1e-12)
    for term in {"objective", "validation", "reconstruction"} & set(plain.history_):
        assert_allclose(scaled.history_[term], plain.history_[term] - shift, rtol=1e-12)


# Each likelihood, and an estimator of its own: what a shift may touch is the standardisation alone.
SHIFTED = ["grbm", "gaussian-diagonal-normal", "gaussian-rowwise-fixed-grbm"]
SHIFTED += ["gaussian-mixture-iaf-normal"]


@quick_and_slow("name", [(name,) for name in SHIFTED], [(name,) for name in MODELS])
def test_shifting_x_changes_nothing(name):
    plain, shifted = as_it_is(name), clone(MODELS[name]).fit(X_DYADIC + SHIFT)
    score = plain.score_samples(X_DYADIC)
    assert_allclose(shifted.score_samples(X_DYADIC + SHIFT), score, rtol=1e-9)
    assert_allclose(shifted.sample(5), plain.sample(5) + SHIFT, rtol=1e-9)


def test_far_from_the_origin():
    # float32 has no digits left for a spread of 1 at 1e8, float64 has.
    X = X_DYADIC + 2.0**27
    score = as_it_is("grbm").score_samples(X_DYADIC)
    assert_allclose(clone(MODELS["grbm"]).fit(X).score_samples(X), score, rtol=1e-5)
