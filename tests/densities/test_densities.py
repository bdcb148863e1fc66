"""Laws that every latent density obeys, and those of the RBM where ln Z cannot be had exactly."""

import math
from functools import cache

import pytest
import torch
from scipy import stats
from small_priors import small_prior

from skevae.densities import gaussian_bernoulli
from skevae.densities.gaussian_bernoulli import (
    EXACT_EVALUATION_UNITS,
    EXACT_TRAINING_UNITS,
    GaussianBernoulliDensity,
)
from skevae.densities.normal import StandardNormalDensity
from skevae.log_partition.annealing import LogPartitionInterval
from skevae.priors import PRIORS
from skevae.samplers import SAMPLERS, ExactSampler, resolve_sampler
from skevae.samplers import exact as exact_draws
from skevae.samplers.gibbs import block_gibbs
from skevae.utils.device import copy_to
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
FOUR_SIGMA = 2 * stats.norm.sf(4)
everything = pytest.mark.parametrize("kind", PRIORS)


def stir(density, scale=0.4, seed=0):
    """Move the parameters to a place where nothing is symmetric or zero."""
    source = make_generator(seed)
    with torch.no_grad():
        for parameter in density.parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter += (scale * noise).to(parameter.dtype)
    return density


def build(kind, n_latent=2, dtype=torch.float64):
    """Density of each prior estimator, its parameters stirred, annealed from a broad base."""
    density = small_prior(kind).make_density(n_latent, make_generator(0)).to(dtype)
    # Stirred like the others, splines have spikes that no grid resolves.
    density = stir(density, scale=0.1 if kind == "flow" else 0.4)
    density.set_base(torch.zeros(n_latent), torch.full((n_latent,), 2.0))
    return density


# The trapezium rule is exact to rounding on what is smooth; a spline has kinks.
QUADRATURE_ERROR = {"flow": 2e-3}


N_NODES = 401


@pytest.fixture(scope="module")
def over_the_plane(plane_grid):
    """Nodes of a grid over the plane, minus the energy there, and ln of the integral, by kind."""

    @cache
    def table(kind):
        nodes, area = plane_grid(reach=20.0, n_nodes=N_NODES)
        with torch.no_grad():
            log_density = -build(kind).energy(nodes)
        return nodes, log_density, log_density.logsumexp(0).item() + math.log(area)

    return table


def rbm(n_latent, n_hidden, *, dtype=torch.float64, scale=0.4, **parameters):
    density = GaussianBernoulliDensity(
        n_latent, n_hidden, generator=make_generator(0), **parameters
    )
    return stir(density.to(dtype), scale)


def with_squares(z):
    return torch.cat([z, (z[:, :, None] * z[:, None, :]).flatten(1)], dim=1)


@pytest.fixture
def beyond_exactness(monkeypatch):
    """Make 6 hidden units the most that are worth an exact ln Z."""
    for name in ("EVALUATION", "SAMPLING", "WATCHING", "TRAINING"):
        monkeypatch.setattr(gaussian_bernoulli, f"EXACT_{name}_UNITS", 6)


# --- every density --------------------------------------------------------------------------------


@everything
def test_normalised_density_integrates_to_one(kind, over_the_plane):
    density = build(kind)
    error = QUADRATURE_ERROR.get(kind, 1e-9)
    low, high = density.log_partition_interval(make_generator(0))
    assert low - error <= over_the_plane(kind)[2] <= high + error
    if density.has_exact_log_partition:
        assert low == high


@everything
def test_exact_log_partition_is_the_integral_over_the_plane(kind, over_the_plane):
    density = build(kind)
    if density.has_exact_log_partition:
        expected = over_the_plane(kind)[2]
        error = QUADRATURE_ERROR.get(kind, 1e-9)
        assert density.log_partition().item() == pytest.approx(expected, abs=error)


@everything
def test_quick_log_partition_is_near_the_integral(kind, over_the_plane):
    value = build(kind).quick_log_partition(make_generator(0))
    assert value == pytest.approx(over_the_plane(kind)[2], abs=0.1)


@everything
def test_samples_have_the_moments_of_the_density(kind, over_the_plane, assert_mean):
    density = build(kind)
    nodes, log_density, _ = over_the_plane(kind)
    p = torch.softmax(log_density, 0)
    z = density.sample(10_000, make_generator(1))
    assert z.shape == (10_000, 2)
    assert_mean(with_squares(z), p @ with_squares(nodes))


@everything
@pytest.mark.parametrize("axis", [0, 1])
def test_samples_follow_the_marginals_of_the_density(kind, over_the_plane, axis):
    density = build(kind)
    p = torch.softmax(over_the_plane(kind)[1], 0).reshape(N_NODES, N_NODES).sum(1 - axis)
    edges = torch.linspace(-20, 20, N_NODES, dtype=torch.float64)
    # The trapezium rule's running sum: each node's mass lies half on either side of it.
    cumulative = p.cumsum(0) - 0.5 * p
    z = density.sample(5000, make_generator(2))[:, axis]

    def cdf(x):
        place = torch.searchsorted(edges, torch.as_tensor(x)).clamp(1, N_NODES - 1)
        share = (torch.as_tensor(x) - edges[place - 1]) / (edges[place] - edges[place - 1])
        return cumulative[place - 1] + share * (cumulative[place] - cumulative[place - 1])

    assert stats.kstest(z, lambda x: cdf(x).numpy()).pvalue > FOUR_SIGMA


@everything
@pytest.mark.parametrize("batch_size, n_chains", [(1, 300), (10, 2000), (1000, 4000)])
def test_transition_leaves_the_moments_unchanged(
    kind, over_the_plane, assert_mean, batch_size, n_chains
):
    density, source = build(kind), make_generator(3)
    nodes, log_density, _ = over_the_plane(kind)
    p = torch.softmax(log_density, 0)
    z = density.sample(n_chains, source)
    moved = torch.cat([density.transition(rows, source) for rows in z.split(batch_size)])
    assert_mean(with_squares(moved), p @ with_squares(nodes))


@everything
def test_a_made_transition_follows_the_parameters(kind):
    density = build(kind)
    step = density.make_transition()
    z = density.sample(5, make_generator(0))
    step(z, make_generator(0))
    stir(density, scale=2.0, seed=9)
    fresh = density.make_transition()
    assert torch.equal(step(z, make_generator(1)), fresh(z, make_generator(1)))


@everything
def test_noise_is_where_chains_without_a_past_start(kind):
    density = build(kind)
    z = density.noise(7, make_generator(0))
    assert z.shape == (7, 2) and z.dtype == torch.float64 and not z.requires_grad


@everything
def test_transition_moves_every_chain(kind):
    density, source = build(kind), make_generator(4)
    z = density.sample(50, source)
    assert (density.transition(z, source) != z).any(dim=1).all()


@everything
def test_energy_gradient_matches_finite_differences(kind, assert_gradient):
    density = build(kind)
    z = density.sample(5, make_generator(0)).requires_grad_()
    weights = torch.linspace(-1, 1, 5, dtype=torch.float64)
    parameters = [z, *density.parameters()]
    assert_gradient(lambda: (weights * density.energy(z)).sum(), parameters)


@everything
def test_log_partition_gradient_matches_finite_differences(kind, assert_gradient):
    density = build(kind)
    # A density that is normalised already has a constant for its ln Z.
    if density.has_exact_log_partition and density.log_partition().requires_grad:
        assert_gradient(density.log_partition, list(density.parameters()))


@everything
def test_energy_takes_any_leading_axes(kind):
    density = build(kind)
    z = density.sample(6, make_generator(0))
    torch.testing.assert_close(density.energy(z.reshape(2, 3, 2)).flatten(), density.energy(z))


@everything
def test_energy_never_sees_a_batch(kind):
    density = build(kind)
    z = density.sample(6, make_generator(0))
    alone = torch.stack([density.energy(row[None])[0] for row in z])
    torch.testing.assert_close(density.energy(z), alone, rtol=1e-12, atol=1e-12)


@everything
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_values_have_the_dtype_of_the_module(kind, dtype):
    density = build(kind, dtype=dtype)
    source = make_generator(0)
    z = density.sample(3, source)
    assert {z.dtype, density.transition(z, source).dtype, density.energy(z).dtype} == {dtype}
    if density.has_exact_log_partition:
        assert density.log_partition().dtype == dtype


@everything
def test_samples_are_determined_by_the_generator(kind):
    density = build(kind)
    first, again, other = (density.sample(4, make_generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@everything
def test_a_prior_that_trains_exactly_has_an_exact_log_partition(kind):
    density = build(kind)
    assert density.has_exact_log_partition or not density.trains_exactly


@everything
def test_a_density_knows_its_size(kind):
    density = build(kind, n_latent=3)
    assert density.n_latent == 3 and density.n_chains >= 1


@everything
def test_sampling_and_normalising_keep_no_graph(kind):
    density, source = build(kind), make_generator(0)
    z = density.sample(2, source)
    assert not z.requires_grad and not density.transition(z, source).requires_grad
    assert isinstance(density.quick_log_partition(source), float)
    assert all(isinstance(end, float) for end in density.log_partition_interval(source))


# --- N(0, I) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_latent", [1, 2, 16, 100])
def test_log_partition_of_the_normal_is_in_the_precision_asked_for(n_latent):
    density = copy_to(StandardNormalDensity(n_latent), "cpu", torch.float64)
    expected = 0.5 * n_latent * math.log(2 * math.pi)
    assert density.log_partition().item() == pytest.approx(expected, rel=1e-14)
    assert density.log_partition_interval(make_generator(0)) == (expected, expected)


# --- the RBM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_hidden", [1, 4, 11])
def test_log_partition_is_the_sum_over_all_hidden_rows(n_hidden, mixture):
    density = rbm(5, n_hidden)
    truth = mixture(density.as_energy())[1].logsumexp(0).item()
    assert density.log_partition().item() == pytest.approx(truth, rel=1e-12)
    assert density.quick_log_partition(make_generator(0)) == pytest.approx(truth, rel=1e-12)
    low, high = density.log_partition_interval(make_generator(0))
    assert low == high == pytest.approx(truth, rel=1e-12)


def test_float32_log_partition_is_the_float64_one_rounded(mixture):
    density = rbm(5, 9, dtype=torch.float32, scale=2.0)
    truth = mixture(density.as_energy().to(torch.float64))[1].logsumexp(0).item()
    assert density.log_partition().item() == pytest.approx(truth, rel=1e-6)


def test_float32_log_partition_does_not_suffer_from_large_exponents(mixture):
    """Weights of 3000 and biases that take them out: exponents of 4.5 million, ln Z near ln 3."""
    density = GaussianBernoulliDensity(1, 2, generator=make_generator(0))
    with torch.no_grad():
        density.weight.copy_(torch.tensor([[3000.1, -2999.7]]))
        density.hidden_bias.copy_(-0.5 * density.weight[0] ** 2)
    truth = mixture(density.as_energy().to(torch.float64))[1].logsumexp(0).item()
    assert density.log_partition().item() == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize(
    "n_hidden, exact", [(EXACT_EVALUATION_UNITS, True), (EXACT_EVALUATION_UNITS + 1, False)]
)
def test_exact_evaluation_ends_where_it_says(n_hidden, exact):
    assert rbm(2, n_hidden).has_exact_log_partition is exact


@pytest.mark.parametrize(
    "n_hidden, exact", [(EXACT_TRAINING_UNITS, True), (EXACT_TRAINING_UNITS + 1, False)]
)
def test_exact_training_ends_where_it_says(n_hidden, exact):
    assert rbm(2, n_hidden).trains_exactly is exact


def test_hidden_probabilities_are_those_of_the_joint(mixture):
    density = rbm(3, 4)
    z = density.sample(5, make_generator(0))
    h, log_weights, means = mixture(density.as_energy())
    deviation = z[:, None] - means
    joint = log_weights - 0.5 * (deviation**2 / density.log_variance.exp()).sum(2)
    expected = torch.softmax(joint, 1) @ h
    torch.testing.assert_close(density.hidden_probabilities(z), expected, rtol=1e-11, atol=1e-12)


def test_fixed_scale_is_one_and_learns_nothing():
    density = GaussianBernoulliDensity(3, 4, generator=make_generator(0), learn_scale=False)
    assert not density.log_variance.requires_grad
    assert torch.equal(density.as_energy().variance, torch.ones(3))


def test_initial_weights_have_the_scale_asked_for(assert_mean):
    density = GaussianBernoulliDensity(100, 50, generator=make_generator(0), initial_scale=0.3)
    assert_mean(density.weight.flatten().square(), 0.09)
    assert_mean(density.weight.flatten(), 0.0)


def test_a_transition_is_as_many_sweeps_as_asked_for():
    once, thrice = rbm(3, 4), rbm(3, 4, n_gibbs_steps=3)
    z, one, other = torch.zeros(5, 3).double(), make_generator(1), make_generator(1)
    step_by_step = z
    for _ in range(3):
        step_by_step = once.transition(step_by_step, one)
    assert torch.equal(thrice.transition(z, other), step_by_step)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_density_uses_the_sampler_of_its_name(sampler):
    density = rbm(3, 4, sampler=sampler, n_gibbs_steps=2)
    z = density.noise(5, make_generator(0))
    made = resolve_sampler(sampler, n_steps=2)
    expected = made(density.as_energy(), z, make_generator(1))
    assert torch.equal(density.transition(z, make_generator(1)), expected)


def test_noise_is_drawn_from_the_base_of_annealing(assert_mean):
    density = rbm(2, 3)
    density.set_base(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5]))
    z = density.noise(20_000, make_generator(0))
    assert_mean(z, [1.0, -2.0])
    assert_mean((z - torch.tensor([1.0, -2.0])).square(), [3.0, 0.5])


def test_base_is_kept_with_the_module():
    density = rbm(2, 3)
    density.set_base(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    other = rbm(2, 3)
    other.load_state_dict(density.state_dict())
    assert other.base_mean.tolist() == [1, 2] and other.base_variance.tolist() == [3, 4]


# --- the RBM beyond exactness ---------------------------------------------------------------------


@pytest.fixture
def large(beyond_exactness, exact_moments):
    """RBM too large for exactness under `beyond_exactness`, on the base it would be given."""
    density = rbm(8, 12, scale=0.3)
    mean, second = exact_moments(density.as_energy())
    density.set_base(mean.detach(), (second.diagonal() - mean**2).detach())
    assert not density.has_exact_log_partition
    return density


def test_annealed_interval_brackets_the_sum_over_all_hidden_rows(large, mixture):
    truth = mixture(large.as_energy())[1].logsumexp(0).item()
    low, high = large.log_partition_interval(make_generator(0))
    # The ends lie 2 standard errors out; 4 allow as much again.
    slack = 0.5 * (high - low)
    assert low < high and low - slack <= truth <= high + slack


def test_annealed_interval_is_narrow_enough_to_publish(large):
    low, high = large.log_partition_interval(make_generator(1))
    assert high - low < 0.1


def test_more_steps_narrow_the_annealed_interval(large, mixture, monkeypatch):
    unknown = LogPartitionInterval(-math.inf, math.inf)
    monkeypatch.setattr(gaussian_bernoulli, "certified_interval", lambda *args, **options: unknown)
    monkeypatch.setattr(gaussian_bernoulli, "N_ANNEALING_STEPS", 100)
    truth = mixture(large.as_energy())[1].logsumexp(0).item()
    (low, high), (lower, higher) = (
        large.log_partition_interval(make_generator(0), effort) for effort in (4, 1)
    )
    assert high - low < 0.75 * (higher - lower)
    assert low - (high - low) / 2 <= truth <= high + (high - low) / 2


def test_annealed_interval_is_determined_by_the_generator(large):
    first, again, other = (large.log_partition_interval(make_generator(s)) for s in (0, 0, 1))
    assert first == again != other


def test_annealed_quick_value_is_near_the_sum_over_all_hidden_rows(large, mixture):
    truth = mixture(large.as_energy())[1].logsumexp(0).item()
    assert large.quick_log_partition(make_generator(0)) == pytest.approx(truth, abs=0.1)


def test_long_chains_sample_the_exact_moments(large, exact_moments, assert_mean):
    mean, second = exact_moments(large.as_energy())
    z = large.sample(2000, make_generator(0))
    assert_mean(with_squares(z), torch.cat([mean, second.flatten()]))


def test_sampling_ends_before_evaluation_does(large, monkeypatch, exact_moments, assert_mean):
    """Where ln Z is worth one evaluation and no more, draws come from long chains."""
    monkeypatch.setattr(gaussian_bernoulli, "EXACT_EVALUATION_UNITS", 12)
    density = rbm(8, 12, scale=0.3)
    density.load_state_dict(large.state_dict())
    low, high = density.log_partition_interval(make_generator(0))
    assert low == high
    mean, second = exact_moments(density.as_energy())
    z = density.sample(1000, make_generator(0))
    assert_mean(with_squares(z), torch.cat([mean, second.flatten()]))
    start = density.noise(1000, source := make_generator(0))
    chains = block_gibbs(density.as_energy(), start, source, gaussian_bernoulli.BURN_IN_STEPS)
    assert torch.equal(z, chains)


def test_exact_draws_are_not_made_over_and_over_to_be_forgotten(large, monkeypatch):
    """Each costs 2^(H+1) operations, and the last forgets all before it."""
    calls, exact_sample = [], exact_draws.exact_sample
    monkeypatch.setattr(
        exact_draws, "exact_sample", lambda *arguments: calls.append(1) or exact_sample(*arguments)
    )
    large.sampler = ExactSampler()
    large.sample(3, make_generator(0))
    assert len(calls) == 1


def test_watching_ends_before_evaluation_does(large, monkeypatch, mixture):
    monkeypatch.setattr(gaussian_bernoulli, "EXACT_EVALUATION_UNITS", 12)
    density = rbm(8, 12, scale=0.3)
    density.load_state_dict(large.state_dict())
    truth = mixture(density.as_energy())[1].logsumexp(0).item()
    value = density.quick_log_partition(make_generator(0))
    assert value != pytest.approx(truth, abs=1e-6) and value == pytest.approx(truth, abs=0.1)


def test_base_does_not_change_the_truth_only_the_effort(large, mixture):
    """From a base that fits badly the interval is wider, and still right."""
    truth = mixture(large.as_energy())[1].logsumexp(0).item()
    large.set_base(large.base_mean + 1.0, 2.0 * large.base_variance)
    low, high = large.log_partition_interval(make_generator(2))
    slack = 0.5 * (high - low)
    assert low - slack <= truth <= high + slack
