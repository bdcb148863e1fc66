"""Laws of the samplers: they leave the exact law unchanged, however many rows go together."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skevae.energies import GaussianBernoulliEnergy
from skevae.samplers import SAMPLERS, resolve_sampler
from skevae.samplers.chains import PersistentChains
from skevae.samplers.exact import exact_sample
from skevae.samplers.gibbs import block_gibbs, sample_hidden, sample_visible

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
FOUR_SIGMA = 2 * stats.norm.sf(4)
# Langevin steps without a Metropolis test err by the square of their size; all else is exact.
BIASED = [name for name, kind in SAMPLERS.items() if not getattr(kind, "adjusted", True)]
EXACT = [name for name in SAMPLERS if name not in BIASED]
TESTED = [name for name, kind in SAMPLERS.items() if getattr(kind, "adjusted", False)]
each_sampler = pytest.mark.parametrize("name", SAMPLERS)


@pytest.fixture
def energy(make_rbm):
    return make_rbm(3, 5, norm=2.0)


def start_exactly(energy, n_samples, mixture, seed=0):
    """Draws by the table of all 2^H rows of h, without the package's sampler."""
    source = np.random.default_rng(seed)
    _, log_weights, means = mixture(energy)
    rows = source.choice(len(means), size=n_samples, p=torch.softmax(log_weights, 0).numpy())
    noise = torch.as_tensor(source.normal(size=(n_samples, means.shape[1])))
    return means[rows] + energy.variance.sqrt() * noise


def with_squares(z):
    """z and all products of its entries, side by side."""
    return torch.cat([z, (z[:, :, None] * z[:, None, :]).flatten(1)], dim=1)


def true_squares(exact_moments, energy):
    mean, second = exact_moments(energy)
    return torch.cat([mean, second.flatten()])


# --- Gibbs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 10, 1000])
def test_gibbs_leaves_exact_moments_unchanged_at_any_batch_size(
    energy, mixture, exact_moments, generator, assert_mean, batch_size
):
    z = start_exactly(energy, 6000 if batch_size > 1 else 2000, mixture)
    source = generator(0)
    moved = torch.cat([block_gibbs(energy, rows, source, 3) for rows in z.split(batch_size)])
    assert_mean(with_squares(moved), true_squares(exact_moments, energy))


@pytest.mark.parametrize("batch_size", [1, 10, 1000])
def test_gibbs_forgets_where_it_started_at_any_batch_size(
    make_rbm, exact_moments, generator, assert_mean, batch_size
):
    # Weak weights, so that 20 sweeps are long beside the chain's memory.
    energy = make_rbm(2, 3, norm=1.0)
    n_chains = 500 if batch_size == 1 else 4000
    z, source = torch.full((n_chains, 2), 4.0, dtype=torch.float64), generator(1)
    ends = torch.cat([block_gibbs(energy, rows, source, 20) for rows in z.split(batch_size)])
    assert_mean(with_squares(ends), true_squares(exact_moments, energy))


def test_gibbs_is_reversible(energy, mixture, generator, assert_mean):
    """E[f(z) g(z')] = E[g(z) f(z')] from an exact start: detailed balance of the z-chain."""
    z = start_exactly(energy, 20_000, mixture)
    moved = block_gibbs(energy, z, generator(2))
    f, g = (lambda rows: rows[:, 0]), (lambda rows: torch.tanh(rows[:, 1]) * rows[:, 2])
    assert_mean(f(z) * g(moved) - g(z) * f(moved), 0.0)


def test_steps_of_gibbs_compose(energy, generator):
    z, once, thrice = energy.visible_mean.repeat(4, 1), generator(3), generator(3)
    for_each = z
    for _ in range(3):
        for_each = block_gibbs(energy, for_each, once)
    assert torch.equal(for_each, block_gibbs(energy, z, thrice, 3))


def test_no_step_of_gibbs_is_no_move(energy, generator):
    z = energy.visible_mean.repeat(4, 1)
    assert torch.equal(block_gibbs(energy, z, generator(), 0), z)


def test_gibbs_leaves_its_argument_alone(energy, generator):
    z = energy.visible_mean.repeat(4, 1)
    before = z.clone()
    block_gibbs(energy, z, generator())
    assert torch.equal(z, before)


def test_gibbs_keeps_no_graph(energy, generator):
    parts = (energy.weight, energy.hidden_bias, energy.visible_mean, energy.variance)
    tracked = GaussianBernoulliEnergy(*(part.clone().requires_grad_() for part in parts))
    assert not block_gibbs(tracked, torch.zeros(2, 3).double(), generator()).requires_grad
    assert not exact_sample(tracked, 2, generator()).requires_grad


# --- the conditionals -----------------------------------------------------------------------------


def test_hidden_draws_have_the_conditional_probabilities(energy, generator, assert_mean):
    z = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    h = sample_hidden(energy, z.expand(20_000, 3), generator(0))
    on = (z / energy.variance) @ energy.weight + energy.hidden_bias
    assert ((h == 0) | (h == 1)).all()
    assert_mean(h, (1 / (1 + torch.exp(-on)))[0])


def test_hidden_draws_are_independent_given_z(energy, generator, assert_mean):
    z = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    p = torch.sigmoid((z / energy.variance) @ energy.weight + energy.hidden_bias)
    centred = sample_hidden(energy, z.expand(20_000, 3), generator(1)) - p
    i, j = torch.triu_indices(5, 5, 1)
    assert_mean(centred[:, i] * centred[:, j], 0.0)


def test_visible_draws_have_the_conditional_moments(energy, generator, assert_mean):
    h = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    mean = energy.visible_mean + energy.weight[:, [0, 2, 3]].sum(1)
    deviation = sample_visible(energy, h.expand(20_000, 5), generator(0)) - mean
    assert_mean(deviation, 0.0)
    assert_mean(deviation[:, :, None] * deviation[:, None, :], torch.diag(energy.variance))


# --- exact draws ----------------------------------------------------------------------------------


def test_exact_draws_have_the_exact_moments(energy, exact_moments, generator, assert_mean):
    z = exact_sample(energy, 20_000, generator(0))
    assert_mean(with_squares(z), true_squares(exact_moments, energy))


def test_exact_draws_and_long_gibbs_chains_are_of_one_law(make_rbm, generator):
    # Weights at which 400 sweeps cross between modes many times over.
    energy, n = make_rbm(3, 5, norm=1.0), 4000
    start = energy.visible_mean + 3 * torch.randn(n, 3, generator=generator(1), dtype=torch.float64)
    chains = block_gibbs(energy, start, generator(2), 400)
    exact = exact_sample(energy, n, generator(3))
    views = [*zip(chains.T, exact.T, strict=True), (energy(chains), energy(exact))]
    assert all(stats.ks_2samp(a, b).pvalue > FOUR_SIGMA for a, b in views)


@pytest.mark.parametrize("axis", [0, 1])
def test_exact_draws_follow_the_marginal_mixture(make_rbm, mixture, generator, axis):
    energy = make_rbm(2, 4, norm=3.0)
    _, log_weights, means = mixture(energy)
    p, scale = torch.softmax(log_weights, 0).numpy(), math.sqrt(energy.variance[axis])

    def cdf(x):
        return (p * stats.norm.cdf(x[:, None], means[:, axis].numpy(), scale)).sum(1)

    z = exact_sample(energy, 5000, generator(4))[:, axis].numpy()
    assert stats.kstest(z, cdf).pvalue > FOUR_SIGMA


def test_exact_draws_of_separated_modes_visit_both(generator, assert_mean):
    """One unit far out with even odds: W = 40, b = -W'W/2. Gibbs would never cross."""
    weight = torch.tensor([[40.0]], dtype=torch.float64)
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    energy = GaussianBernoulliEnergy(weight, torch.tensor([-800.0]).double(), zero, one)
    z = exact_sample(energy, 5000, generator(0))
    assert_mean((z > 20).double(), [0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_in_the_dtype_of_the_energy(energy, generator, dtype):
    narrow = energy.to(dtype)
    z = exact_sample(narrow, 3, generator())
    assert z.dtype == dtype and z.shape == (3, 3)
    assert block_gibbs(narrow, z, generator()).dtype == dtype


def test_exact_draws_do_not_suffer_from_a_float32_energy(assert_mean):
    """Exponents of 4.5 million are known to 1/4 in float32: tables made there would be wrong."""
    weight = torch.tensor([[3000.1, -2999.7]])
    bias = -0.5 * weight[0] ** 2
    energy = GaussianBernoulliEnergy(weight, bias, torch.zeros(1), torch.ones(1))
    # No unit, one or the other; both together are 9 million nats below.
    log_odds = bias.double() + 0.5 * weight[0].double() ** 2
    p = torch.softmax(torch.cat([torch.zeros(1), log_odds]), 0)
    z = exact_sample(energy, 20_000, torch.Generator().manual_seed(0))
    places = torch.cat([z.abs() < 1000, z > 1000, z < -1000], dim=1).double()
    assert_mean(places, p)


# --- every sampler --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("batch_size, n_chains", [(1, 300), (10, 1000), (1000, 5000)])
def test_transition_leaves_exact_moments_unchanged_at_any_batch_size(
    energy, mixture, exact_moments, generator, assert_mean, name, batch_size, n_chains
):
    # Large steps, which a Metropolis test has to put right.
    sampler, source = resolve_sampler(name, n_steps=2, step_size=1.0), generator(0)
    z = start_exactly(energy, n_chains, mixture, seed=1)
    moved = torch.cat([sampler(energy, rows, source) for rows in z.split(batch_size)])
    assert_mean(with_squares(moved), true_squares(exact_moments, energy))


@pytest.mark.parametrize("name", EXACT)
def test_the_first_transition_leaves_exact_moments_unchanged(
    energy, mixture, exact_moments, generator, assert_mean, name
):
    z = start_exactly(energy, 20_000, mixture, seed=2)
    moved = resolve_sampler(name, n_steps=1, step_size=1.0)(energy, z, generator(1))
    assert_mean(with_squares(moved), true_squares(exact_moments, energy))


@pytest.mark.parametrize("name", BIASED)
@pytest.mark.parametrize("batch_size, n_chains", [(1, 300), (10, 2000), (1000, 5000)])
def test_langevin_has_its_own_stationary_law_on_a_normal_at_any_batch_size(
    make_rbm, generator, assert_mean, name, batch_size, n_chains
):
    """z' - mu = (1 - e^2/2)(z - mu) + e s xi keeps the variance s^2 / (1 - e^2/4).

    Noise or drift that knew of a batch, as a mean over it would, would target exp(-E/B).
    """
    tied = make_rbm(2, 3)
    energy = GaussianBernoulliEnergy(
        torch.zeros_like(tied.weight), tied.hidden_bias, tied.visible_mean, tied.variance
    )
    step, source = 1.0, generator(0)
    kept = energy.variance / (1 - step**2 / 4)
    z = torch.randn(n_chains, 2, generator=source, dtype=torch.float64)
    z = energy.visible_mean + kept.sqrt() * z
    for _ in range(3):
        sampler = resolve_sampler(name, n_steps=1, step_size=step)
        z = torch.cat([sampler(energy, rows, source) for rows in z.split(batch_size)])
    deviation = z - energy.visible_mean
    assert_mean(deviation, 0.0)
    assert_mean(deviation.square(), kept)


@pytest.mark.parametrize("name", BIASED)
@pytest.mark.parametrize("batch_size, n_chains", [(1, 100), (10, 1000), (1000, 5000)])
def test_langevin_keeps_the_law_of_exact_gibbs_but_for_the_square_of_its_step(
    energy, mixture, exact_moments, generator, name, batch_size, n_chains
):
    step, source = 0.1, generator(0)
    sampler = resolve_sampler(name, n_steps=100, step_size=step)
    z = start_exactly(energy, n_chains, mixture, seed=3)
    moved = with_squares(torch.cat([sampler(energy, row, source) for row in z.split(batch_size)]))
    truth = true_squares(exact_moments, energy)
    error = moved.std(0) / math.sqrt(n_chains)
    # Steps begin at twice their size; a variance errs by a quarter of the square.
    size = with_squares(z).abs().mean(0)
    assert ((moved.mean(0) - truth).abs() <= 4 * error + (2 * step) ** 2 * size).all()


@pytest.mark.parametrize("name", BIASED)
def test_langevin_errs_less_with_smaller_steps(make_rbm, generator, name):
    energy = make_rbm(2, 3, norm=1.0)
    z = exact_sample(energy, 50_000, generator(0))

    def spread(step):
        sampler = resolve_sampler(name, n_steps=30, step_size=step)
        return sampler(energy, z, generator(1)).var(0)

    exact = z.var(0)
    errors = [(spread(step) - exact).abs().max().item() for step in (1.0, 0.5)]
    assert errors[1] < 0.5 * errors[0]


@each_sampler
def test_transitions_are_determined_by_the_generator(energy, generator, name):
    def run(seed):
        return resolve_sampler(name, n_steps=2)(
            energy, torch.zeros(10, 3).double(), generator(seed)
        )

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


@each_sampler
def test_transitions_move_the_generator_on(energy, generator, name):
    source, z = generator(0), torch.zeros(10, 3).double()
    assert not torch.equal(
        resolve_sampler(name, n_steps=2)(energy, z, source),
        resolve_sampler(name, n_steps=2)(energy, z, source),
    )


@each_sampler
def test_transition_leaves_its_argument_alone(energy, generator, name):
    z = energy.visible_mean.repeat(4, 1)
    before = z.clone()
    resolve_sampler(name, n_steps=2)(energy, z, generator())
    assert torch.equal(z, before)


@each_sampler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transition_keeps_shape_and_dtype_and_no_graph(energy, generator, name, dtype):
    parts = (energy.weight, energy.hidden_bias, energy.visible_mean, energy.variance)
    tracked = GaussianBernoulliEnergy(*(part.to(dtype).requires_grad_() for part in parts))
    z = resolve_sampler(name, n_steps=2)(tracked, torch.zeros(4, 3, dtype=dtype), generator())
    assert z.shape == (4, 3) and z.dtype == dtype and not z.requires_grad


@each_sampler
def test_transition_serves_chains_of_another_number(energy, generator, name):
    sampler = resolve_sampler(name, n_steps=2)
    for n_chains in (7, 3, 7):
        assert sampler(energy, torch.zeros(n_chains, 3).double(), generator()).shape == (
            n_chains,
            3,
        )


@pytest.mark.parametrize("name", TESTED)
def test_acceptance_rate_is_the_share_of_rows_that_moved(energy, mixture, generator, name):
    sampler = resolve_sampler(name, n_steps=1, step_size=1.0)
    assert math.isnan(sampler.acceptance_rate)
    z, moves = start_exactly(energy, 500, mixture), 0
    for _ in range(4):
        moved = sampler(energy, z, generator(1))
        moves += (moved != z).any(dim=1).sum().item()
        z = moved
    assert sampler.acceptance_rate == pytest.approx(moves / 2000) and 0 < moves < 2000


@pytest.mark.parametrize("name", TESTED)
def test_small_steps_are_all_but_always_accepted(energy, mixture, generator, name):
    sampler = resolve_sampler(name, n_steps=1, step_size=0.01)
    sampler(energy, start_exactly(energy, 2000, mixture), generator(0))
    assert sampler.acceptance_rate > 0.99


def test_tempering_crosses_between_modes_that_gibbs_cannot(generator, assert_mean):
    """One unit, 14 standard deviations out, at even odds: Gibbs has to climb 7 of them."""
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    energy = GaussianBernoulliEnergy(14 * one[:, None], -98 * one, zero, one)
    start = torch.zeros(1000, 1).double()
    crossed = {
        name: (resolve_sampler(name, n_steps=200)(energy, start, generator(0)) > 7).double()
        for name in ("gibbs", "parallel-tempering")
    }
    assert not crossed["gibbs"].any()
    assert_mean(crossed["parallel-tempering"], [0.5])


def test_closed_form_gradient_is_that_of_the_energy(energy, generator):
    z = torch.randn(20, 3, generator=generator(0), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(z).sum(), z)
    value, closed_form = energy.value_and_gradient(z)
    torch.testing.assert_close(value, energy(z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(closed_form, gradient, rtol=1e-12, atol=1e-12)


# --- persistent chains ----------------------------------------------------------------------------


def test_persistent_chains_go_on_from_where_they_stood(generator):
    start = torch.zeros(3, 2)
    chains = PersistentChains(start)
    seen = []

    def transition(z, source):
        seen.append(z.clone())
        return z + 1

    moved = [chains.advance(transition, generator()).clone() for _ in range(3)]
    assert not start.any()
    assert [z.mean().item() for z in seen] == [0, 1, 2]
    assert [z.mean().item() for z in moved] == [1, 2, 3]
    assert torch.equal(chains.state, torch.full((3, 2), 3.0))


def test_persistent_chains_hand_their_generator_to_the_transition(energy, generator):
    z = torch.zeros(4, 3).double()
    chains = PersistentChains(z)
    moved = chains.advance(lambda z, source: block_gibbs(energy, z, source), generator(7))
    assert torch.equal(moved, block_gibbs(energy, z, generator(7)))
