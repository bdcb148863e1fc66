"""Laws of the samplers: they leave the exact law unchanged, however many rows go together."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skevae.energies import GaussianBernoulliEnergy
from skevae.samplers import (
    PersistentChains,
    block_gibbs,
    exact_sample,
    sample_hidden,
    sample_visible,
)

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
FOUR_SIGMA = 2 * stats.norm.sf(4)


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


# --- randomness -----------------------------------------------------------------------------------

SAMPLERS = {
    "exact": lambda energy, source: exact_sample(energy, 10, source),
    "gibbs": lambda energy, source: block_gibbs(energy, torch.zeros(10, 3).double(), source, 2),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_are_determined_by_the_generator(energy, generator, name):
    here, again, other = (SAMPLERS[name](energy, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(here, again) and not torch.equal(here, other)


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_move_the_generator_on(energy, generator, name):
    source = generator(0)
    assert not torch.equal(SAMPLERS[name](energy, source), SAMPLERS[name](energy, source))


# --- persistent chains ----------------------------------------------------------------------------


def test_persistent_chains_go_on_from_where_they_stood(generator):
    chains = PersistentChains(torch.zeros(3, 2))
    seen = []

    def transition(z, source):
        seen.append(z)
        return z + 1

    moved = [chains.advance(transition, generator()) for _ in range(3)]
    assert [z.mean().item() for z in seen] == [0, 1, 2]
    assert [z.mean().item() for z in moved] == [1, 2, 3]
    assert torch.equal(chains.state, torch.full((3, 2), 3.0))


def test_persistent_chains_hand_their_generator_to_the_transition(energy, generator):
    z = torch.zeros(4, 3).double()
    chains = PersistentChains(z)
    moved = chains.advance(lambda z, source: block_gibbs(energy, z, source), generator(7))
    assert torch.equal(moved, block_gibbs(energy, z, generator(7)))
