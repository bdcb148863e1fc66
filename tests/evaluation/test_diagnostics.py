"""Laws of what importance weights say about their own estimate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skevae.evaluation.diagnostics import effective_sample_size, pareto_k
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=make_generator(seed), dtype=dtype)


# --- effective sample size ------------------------------------------------------------------------

weight_tables = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=st.floats(-500, 500)
)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(weight_tables)
def test_effective_sample_size_lies_between_one_and_all(table):
    size = effective_sample_size(torch.as_tensor(table))
    assert (size >= 1 - 1e-10).all() and (size <= len(table) * (1 + 1e-10)).all()


def test_effective_sample_size_is_the_squared_sum_over_the_sum_of_squares():
    w = normals(30, 4).exp()
    expected = w.sum(0) ** 2 / (w**2).sum(0)
    torch.testing.assert_close(effective_sample_size(w.log()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, -1003.3, 2e4])
def test_equal_weights_all_count(level, dtype):
    size = effective_sample_size(torch.full((1000, 2), level, dtype=dtype))
    tolerance = 1000 * 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(size, torch.full((2,), 1000.0, dtype=dtype), rtol=0, atol=tolerance)


def test_one_weight_above_all_counts_alone():
    weights = torch.zeros(1000, 1, dtype=torch.float64)
    weights[7] = 600.0
    assert effective_sample_size(weights).item() == pytest.approx(1, rel=1e-10)


# --- the Pareto shape -----------------------------------------------------------------------------


def pareto_weights(shape, n_draws=50_000, n_rows=20, seed=0):
    """Logs of generalised Pareto weights, by inversion; any tail of them has the same shape."""
    u = torch.rand(n_draws, n_rows, generator=make_generator(seed), dtype=torch.float64)
    return torch.log(torch.expm1(-shape * torch.log1p(-u)) / shape)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_pareto_k_recovers_the_shape_of_generalised_pareto_weights(shape):
    k = pareto_k(pareto_weights(shape))
    n_tail = math.ceil(3 * math.sqrt(50_000))
    # The asymptotic error of the maximum-likelihood shape is (1 + k) / sqrt(n); its bias and that
    # of the prior, which is worth 10 observations of k = 1/2, are of the order of 1 / n.
    error = (1 + shape) / math.sqrt(n_tail)
    bias = (10 * abs(shape - 0.5) + 5) / n_tail
    assert abs(k.mean().item() - shape) <= 4 * error / math.sqrt(20) + bias
    assert ((k - shape).abs() <= 4 * error + bias).all()


def zhang_stephens(weights):
    """The published estimate for one row, step by step, with ten observations' worth of k = 1/2."""
    n_tail = math.ceil(min(0.2 * len(weights), 3 * math.sqrt(len(weights))))
    ordered = np.sort(weights)
    x = np.exp(ordered[-n_tail:] - ordered[-1]) - np.exp(ordered[-n_tail - 1] - ordered[-1])
    m = 30 + int(math.sqrt(n_tail))
    quartile = x[int(n_tail / 4 + 0.5) - 1]
    theta = [1 / x[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile) for j in range(1, m + 1)]
    profile = []
    for t in theta:
        k = -np.mean(np.log1p(-t * x))
        profile.append(n_tail * (math.log(t / k) + k - 1))
    shares = [1 / sum(math.exp(min(700, other - one)) for other in profile) for one in profile]
    t = sum(share * value for share, value in zip(shares, theta, strict=True))
    k = np.mean(np.log1p(-t * x))
    return (n_tail * k + 10 * 0.5) / (n_tail + 10)


@pytest.mark.parametrize("n_draws", [25, 60, 400, 1000])
@pytest.mark.parametrize("shape", [0.2, 0.9])
def test_pareto_k_is_the_published_estimate(n_draws, shape):
    weights = pareto_weights(shape, n_draws, n_rows=4)
    expected = [zhang_stephens(column) for column in weights.T.numpy()]
    np.testing.assert_allclose(pareto_k(weights), expected, rtol=1e-9)


def test_bounded_weights_have_a_small_shape():
    u = torch.rand(20_000, 3, generator=make_generator(0), dtype=torch.float64)
    assert (pareto_k(u.log()) < 0).all()  # uniform weights are generalised Pareto with k = -1


@pytest.mark.parametrize("shift", [-2000.0, 700.0])
def test_pareto_k_does_not_depend_on_the_scale_of_the_weights(shift):
    weights = pareto_weights(0.5, n_draws=1000)
    rounding = 1e3 * abs(shift) * np.finfo(float).eps
    torch.testing.assert_close(pareto_k(weights + shift), pareto_k(weights), rtol=0, atol=rounding)


def test_pareto_k_does_not_depend_on_the_order_of_the_draws():
    weights = pareto_weights(0.5, n_draws=1000)
    torch.testing.assert_close(pareto_k(weights.flip(0)), pareto_k(weights), rtol=1e-12, atol=0)


def test_rows_have_shapes_of_their_own():
    weights = pareto_weights(0.5, n_draws=1000)
    alone = torch.cat([pareto_k(column[:, None]) for column in weights.T])
    torch.testing.assert_close(pareto_k(weights), alone, rtol=1e-10, atol=1e-12)


def test_body_of_the_weights_has_no_say_in_their_tail():
    weights = pareto_weights(0.5, n_draws=1000)
    n_tail = math.ceil(3 * math.sqrt(1000))
    below = weights < weights.topk(n_tail + 1, dim=0).values[-1]
    moved = torch.where(below, weights - 5.0, weights)
    torch.testing.assert_close(pareto_k(moved), pareto_k(weights), rtol=1e-12, atol=0)


@pytest.mark.parametrize("level", [0.0, -3000.0])
def test_equal_weights_have_no_tail(level):
    k = pareto_k(torch.full((100, 3), level, dtype=torch.float64))
    assert (k == -math.inf).all()


def test_equal_largest_weights_have_no_tail():
    weights = torch.linspace(-5, 0, 1000, dtype=torch.float64)[:, None].clamp(max=-2.0)
    assert pareto_k(weights).item() == -math.inf


@pytest.mark.parametrize("n_draws", [1, 2, 5, 10, 20, 24])
def test_a_tail_cannot_be_fitted_to_few_draws(n_draws):
    assert torch.isnan(pareto_k(normals(n_draws, 2))).all()


@pytest.mark.parametrize("n_draws", [25, 26, 100])
def test_from_25_draws_a_tail_can_be_fitted(n_draws):
    assert torch.isfinite(pareto_k(normals(n_draws, 2))).all()


@pytest.mark.parametrize("n_larger", [1, 5, 30, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_few_weights_above_equal_ones_are_a_tail_to_be_warned_of(n_larger, dtype):
    weights = torch.zeros(1000, 1, dtype=dtype)
    weights[:n_larger, 0] = torch.linspace(1, 20, n_larger)
    k = pareto_k(weights).item()
    assert k > 0.7


def test_one_draw_that_dominates_is_warned_of():
    weights = normals(1000, 1)
    weights[3] = 1000.0
    assert pareto_k(weights).item() > 0.7
