"""Laws that every likelihood obeys, and those of the binary rows drawn from probabilities."""

import itertools
import math

import numpy as np
import pytest
import torch
from building import CONTINUOUS, DISCRETE, make_likelihood
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal

from skevae.likelihoods import LIKELIHOODS
from skevae.likelihoods.bernoulli import binarize
from skevae.networks.scales import UNIT_SHIFT
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
FOUR_SIGMA = 2 * stats.norm.sf(4)
MIN_SCALE = 0.05


def normals(*shape, seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def build(kind, n_features=3):
    """Likelihood with parameters away from where they start."""
    likelihood = make_likelihood(kind, n_features, MIN_SCALE).double()
    with torch.no_grad():
        for i, parameter in enumerate(likelihood.parameters()):
            parameter.copy_(normals(*parameter.shape, seed=i))
    return likelihood


def decoded(likelihood, *shape, n_features=3, seed=5):
    return normals(*shape, likelihood.n_outputs, seed=seed)


def rows(likelihood, *shape, n_features=3, seed=6):
    x = normals(*shape, n_features, seed=seed)
    return x if likelihood.standardizes else (x > 0).double()


everything = pytest.mark.parametrize("kind", LIKELIHOODS)


# --- every likelihood -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_density_integrates_to_one(kind):
    likelihood = build(kind, 1)
    outputs = decoded(likelihood, 1, n_features=1)
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    mass = likelihood.log_density(x, outputs).exp().sum() * 1e-3
    assert mass.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("kind", DISCRETE)
def test_probabilities_of_all_binary_rows_sum_to_one(kind):
    likelihood = build(kind)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    mass = likelihood.log_density(x, decoded(likelihood, 1)).exp().sum()
    assert mass.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_mean_is_that_of_the_density(kind):
    likelihood = build(kind, 1)
    outputs = decoded(likelihood, 1, n_features=1)
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    mean = (likelihood.log_density(x, outputs).exp() @ x) * 1e-3
    torch.testing.assert_close(likelihood.mean(outputs)[0], mean, rtol=0, atol=1e-9)


@everything
def test_mean_is_that_of_the_samples(kind, generator, assert_mean):
    likelihood = build(kind)
    outputs = decoded(likelihood, 4)
    x = likelihood.sample(outputs.expand(20_000, -1, -1), generator(0))
    assert_mean(x, likelihood.mean(outputs))


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_samples_follow_the_density(kind, generator):
    likelihood = build(kind, 1)
    outputs = decoded(likelihood, 1, n_features=1)
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    cumulative = likelihood.log_density(grid, outputs).exp().cumsum(0).detach() * 1e-3
    x = likelihood.sample(outputs.expand(5000, -1), generator(1))[:, 0].detach()
    law = stats.kstest(x, lambda at: np.interp(at, grid[:, 0], cumulative))
    assert law.pvalue > FOUR_SIGMA


@pytest.mark.parametrize("kind", DISCRETE)
def test_samples_follow_the_probabilities(kind, generator):
    likelihood = build(kind)
    outputs = decoded(likelihood, 1)
    x = likelihood.sample(outputs.expand(20_000, -1), generator(1))
    codes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    expected = 20_000 * likelihood.log_density(codes, outputs).exp()
    observed = (x[:, None] == codes).all(2).sum(0)
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    assert stats.chi2.sf(statistic, len(codes) - 1) > FOUR_SIGMA


@everything
def test_features_are_independent_given_the_latents(kind):
    likelihood = build(kind)
    outputs, x = decoded(likelihood, 1), rows(likelihood, 1)
    other = rows(likelihood, 1, seed=9)
    # ln p of a row is a sum over features: swapping one moves it by the same, whatever the others.
    swapped_alone = torch.cat([other[:, :1], x[:, 1:]], dim=1)
    swapped_with = torch.cat([other[:, :1], other[:, 1:]], dim=1)
    kept = torch.cat([x[:, :1], other[:, 1:]], dim=1)
    moved = likelihood.log_density(swapped_alone, outputs) - likelihood.log_density(x, outputs)
    there = likelihood.log_density(swapped_with, outputs) - likelihood.log_density(kept, outputs)
    torch.testing.assert_close(moved, there, rtol=1e-12, atol=1e-12)


@everything
def test_density_broadcasts_over_draws(kind):
    likelihood = build(kind)
    outputs, x = decoded(likelihood, 4, 5), rows(likelihood, 5)
    table = likelihood.log_density(x, outputs)
    assert table.shape == (4, 5)
    for k, i in itertools.product(range(4), range(5)):
        one = likelihood.log_density(x[i : i + 1], outputs[k, i : i + 1])
        torch.testing.assert_close(table[k, i], one[0], rtol=1e-12, atol=1e-12)


@everything
def test_mean_and_sample_have_a_value_for_each_feature(kind, generator):
    likelihood = build(kind)
    outputs = decoded(likelihood, 2, 4)
    assert likelihood.mean(outputs).shape == (2, 4, 3)
    assert likelihood.sample(outputs, generator()).shape == (2, 4, 3)


@everything
def test_samples_are_determined_by_the_generator(kind, generator):
    likelihood = build(kind)
    outputs = decoded(likelihood, 50)
    first, again, other = (likelihood.sample(outputs, generator(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@everything
def test_density_gradient_matches_finite_differences(kind, assert_gradient):
    likelihood = build(kind)
    outputs = decoded(likelihood, 2, 4).requires_grad_()
    x = rows(likelihood, 4).requires_grad_()
    assert_gradient(
        lambda: (likelihood.log_density(x, outputs) * normals(2, 4)).sum(),
        [x, outputs, *likelihood.parameters()],
    )


@everything
@pytest.mark.parametrize("min_scale", [0.01, 0.5])
@pytest.mark.parametrize("extreme", [-1e4, -50.0, 0.0])
def test_density_never_exceeds_that_of_the_narrowest_scale(kind, min_scale, extreme):
    """On a discrete column the mean can be hit exactly: the bound is what keeps ln p finite."""
    likelihood = make_likelihood(kind, 3, min_scale).double()
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.fill_(extreme)
    outputs = torch.full((1, likelihood.n_outputs), extreme, dtype=torch.float64)
    x = likelihood.mean(outputs)
    # A probability mass is at most 1; a normal of scale s at most 1 / (s sqrt(2 pi)).
    bound = -3 * math.log(min_scale * math.sqrt(2 * math.pi)) if likelihood.standardizes else 0.0
    value = likelihood.log_density(x, outputs).item()
    assert value <= bound + 1e-12 and math.isfinite(value)


# --- closed forms ---------------------------------------------------------------------------------


def softplus_scale(raw):
    return MIN_SCALE + torch.log1p((math.e - 1) * raw.exp())


def test_gaussian_is_a_normal_with_one_scale_for_each_feature():
    likelihood = build("gaussian")
    outputs, x = decoded(likelihood, 4), normals(4, 3)
    law = Independent(Normal(outputs, softplus_scale(likelihood.raw_scale)), 1)
    torch.testing.assert_close(likelihood.log_density(x, outputs), law.log_prob(x))


def test_rowwise_gaussian_is_a_normal_whose_scale_is_decoded():
    likelihood = build("gaussian-rowwise")
    outputs, x = decoded(likelihood, 4), normals(4, 3)
    law = Independent(Normal(outputs[:, :3], softplus_scale(outputs[:, 3:])), 1)
    torch.testing.assert_close(likelihood.log_density(x, outputs), law.log_prob(x))


@pytest.mark.parametrize("kind", ["gaussian", "gaussian-rowwise"])
def test_normal_likelihoods_start_at_unit_scale(kind):
    likelihood = make_likelihood(kind, 3, MIN_SCALE).double()
    zero = torch.zeros(1, likelihood.n_outputs, dtype=torch.float64)
    expected = -1.5 * math.log(2 * math.pi) - 3 * math.log(1 + MIN_SCALE)
    value = likelihood.log_density(torch.zeros(1, 3).double(), zero).item()
    assert value == pytest.approx(expected, rel=1e-6)  # raw scales start in float32


def test_mixture_is_that_of_its_decoded_components():
    likelihood = build("gaussian-mixture")
    outputs, x = decoded(likelihood, 4), normals(4, 3)
    n = likelihood.n_components
    logits, mean, raw = outputs.reshape(4, 3, n, 3).permute(1, 0, 3, 2)
    # Rows decoded to 0 lie where the components start: at the quantiles of N(0, 1).
    start = torch.as_tensor(stats.norm.ppf((np.arange(n) + 0.5) / n))
    rest = (1 - start.square().mean()).sqrt()  # what gives all of them together unit variance
    scale = MIN_SCALE + rest * torch.log1p((math.e - 1) * raw.exp())
    law = MixtureSameFamily(Categorical(logits=logits), Normal(mean + start, scale))
    density, expected = likelihood.log_density(x, outputs), law.log_prob(x).sum(-1)
    torch.testing.assert_close(density, expected, rtol=1e-6, atol=1e-6)  # quantiles are float32
    torch.testing.assert_close(likelihood.mean(outputs), law.mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("distance", [1.0, 1e2, 1e4, 1e10])
def test_mixture_keeps_its_digits_far_from_its_components(distance):
    """Where the exponential of every component but the nearest, or of all, underflows."""
    likelihood = build("gaussian-mixture")
    outputs, x = decoded(likelihood, 4), distance * normals(4, 3)
    exact = likelihood.log_density(x, outputs)
    rounded = likelihood.float().log_density(x.float(), outputs.float())
    torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=1e-5)


def test_mixture_has_no_density_where_squares_overflow():
    likelihood = build("gaussian-mixture").float()
    far = torch.full((1, 3), 1e30)
    assert likelihood.log_density(far, decoded(likelihood, 1).float()).item() == -math.inf


def test_mixture_starts_near_the_standard_normal():
    likelihood = make_likelihood("gaussian-mixture", 1, 0.01).double()
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    zero = torch.zeros(1, likelihood.n_outputs, dtype=torch.float64)
    density = likelihood.log_density(x, zero).exp()
    divergence = (density * (density.log() - Normal(0, 1).log_prob(x[:, 0]))).sum() * 0.01
    assert 0 < divergence < 0.02


def test_bernoulli_is_the_one_of_its_log_odds():
    likelihood = build("bernoulli")
    outputs, x = decoded(likelihood, 4), rows(likelihood, 4)
    law = Independent(Bernoulli(logits=outputs), 1)
    torch.testing.assert_close(likelihood.log_density(x, outputs), law.log_prob(x))


def test_bernoulli_is_finite_at_certainty():
    likelihood = make_likelihood("bernoulli", 2, MIN_SCALE)
    value = likelihood.log_density(torch.tensor([[0.0, 1.0]]), torch.tensor([[1e4, -1e4]]))
    assert value.item() == -2e4


def test_unit_shift_inverts_softplus_at_one():
    assert math.log1p(math.exp(UNIT_SHIFT)) == pytest.approx(1, rel=1e-15)


# --- binary rows from probabilities ---------------------------------------------------------------


def probabilities(n, n_features, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    return torch.rand(n, n_features, generator=source, dtype=dtype)


def test_over_seeds_each_feature_is_one_with_its_probability(assert_mean):
    x = probabilities(3, 5)
    drawn = torch.stack([binarize(x, make_generator(seed)) for seed in range(4000)])
    assert_mean(drawn, x)


def test_over_rows_each_feature_is_one_with_its_probability(assert_mean):
    x = probabilities(20_000, 5, seed=1)
    assert_mean(binarize(x, make_generator(0)) - x, 0.0)


def test_features_of_a_row_are_drawn_independently(assert_mean):
    x = probabilities(1, 5)
    drawn = torch.stack([binarize(x, make_generator(seed))[0] for seed in range(4000)])
    i, j = torch.triu_indices(5, 5, 1)
    centred = drawn - x
    assert_mean(centred[:, i] * centred[:, j], 0.0)


def test_rows_that_differ_see_different_thresholds():
    x = 0.5 + 0.01 * probabilities(400, 5)
    drawn = binarize(x, make_generator(0)).mean(0)
    # All lie near 1/2: were they to share a threshold, they would agree.
    assert ((0.25 < drawn) & (drawn < 0.75)).all()


unit_rows = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 6), st.just(4)), elements=st.floats(0, 1)
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(unit_rows, st.integers(0, 100))
def test_binary_rows_are_a_function_of_the_row_alone(x, seed):
    x = torch.as_tensor(x)
    together = binarize(x, make_generator(seed))
    alone = torch.cat([binarize(row[None], make_generator(seed)) for row in x])
    reverse = binarize(x.flip(0), make_generator(seed)).flip(0)
    assert torch.equal(together, alone) and torch.equal(together, reverse)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(unit_rows, st.integers(0, 100))
def test_binary_rows_are_binary_and_binary_rows_stay(x, seed):
    x = torch.as_tensor(x)
    drawn = binarize(x, make_generator(seed))
    assert ((drawn == 0) | (drawn == 1)).all()
    assert torch.equal(drawn[x == 0], x[x == 0]) and torch.equal(drawn[x == 1], x[x == 1])
    assert torch.equal(binarize(drawn, make_generator(seed)), drawn)


def test_wide_rows_do_not_depend_on_their_batch():
    x = probabilities(2000, 784)
    drawn = binarize(x, make_generator(0))
    parts = torch.cat([binarize(part, make_generator(0)) for part in x.split(99)])
    assert torch.equal(drawn, parts)


def test_wide_rows_do_not_depend_on_the_order_in_which_their_hash_is_summed():
    """Column-major rows are summed in another order, as they are on another device."""
    # Row 17670 lies so near a step of a hash that is rounded that another order crosses it.
    x = probabilities(20_000, 784, seed=4)[17_000:18_000]
    drawn = binarize(x, make_generator(0))
    column_major = binarize(x.T.contiguous().T, make_generator(0))
    assert torch.equal(drawn, column_major)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binary_rows_keep_the_dtype(dtype):
    assert binarize(probabilities(3, 4, dtype=dtype), make_generator(0)).dtype == dtype
