"""Laws of randomness as an argument."""

import os
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from skevae.utils.random import (
    SEED_BOUND,
    binary,
    draw_seed,
    lent_globals,
    make_generator,
    quasi_normal,
    spawn,
    standard_normal,
)

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
seeds = st.integers(0, SEED_BOUND - 1)
law = settings(deadline=None, max_examples=25, derandomize=True)


# --- seeds ----------------------------------------------------------------------------------------


def test_an_integer_state_gives_the_same_seed_each_time():
    assert draw_seed(3) == draw_seed(3) != draw_seed(4)


def test_a_random_state_instance_moves_on():
    state = np.random.RandomState(0)
    first, second = draw_seed(state), draw_seed(state)
    assert first != second
    assert draw_seed(np.random.RandomState(0)) == first


def test_no_state_gives_fresh_entropy_and_leaves_numpy_alone():
    assert len({draw_seed(None) for _ in range(20)}) == 20


@pytest.mark.parametrize("state", ["0", 1.5, [1]])
def test_what_is_no_random_state_is_refused(state):
    with pytest.raises(ValueError, match="cannot be used to seed"):
        draw_seed(state)


@law
@given(seeds)
def test_drawn_seed_is_one_that_spawn_and_torch_accept(seed):
    drawn = draw_seed(seed)
    assert 0 <= drawn < SEED_BOUND
    make_generator(drawn)
    assert all(0 <= child < SEED_BOUND for child in spawn(drawn, 6))


@law
@given(seeds, st.integers(1, 12))
def test_spawned_streams_are_reproducible_and_all_different(seed, n_streams):
    children = spawn(seed, n_streams)
    assert children == spawn(seed, n_streams)
    assert len({seed, *children}) == n_streams + 1


def test_children_of_neighbouring_seeds_do_not_meet():
    children = [child for seed in range(200) for child in spawn(seed, 6)]
    # By birthday, 1200 seeds of 31 bits meet with a chance of 3e-4.
    assert len(set(children)) == len(children)


def test_spawned_streams_are_uncorrelated(assert_mean):
    first, second = (torch.randn(20_000, generator=make_generator(s)) for s in spawn(0, 2))
    assert_mean(first * second, 0.0)


# --- generators and noise -------------------------------------------------------------------------


def test_generator_is_determined_by_its_seed():
    def draw(seed):
        return torch.rand(4, generator=make_generator(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_takes_the_dtype_of_its_example(dtype):
    noise = standard_normal((2, 3), make_generator(0), torch.empty(0, dtype=dtype))
    assert noise.shape == (2, 3) and noise.dtype == dtype


def test_noise_is_standard_normal(assert_mean):
    z = standard_normal((20_000,), make_generator(0), torch.empty(0, dtype=torch.float64))
    powers = torch.stack([z, z**2, z**3, z**4], dim=1)
    assert_mean(powers, [0.0, 1.0, 0.0, 3.0])


# --- evenly spread noise --------------------------------------------------------------------------

each_size = pytest.mark.parametrize("n_draws", [1, 2, 3, 64, 1000])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binary_draws_are_ones_as_often_as_they_should_be(dtype, assert_mean):
    probability = torch.tensor([[0.0, 0.1, 0.5], [0.7, 1.0, 1.0]], dtype=dtype)
    x = binary(probability.expand(20_000, -1, -1), make_generator(0))
    assert x.dtype == dtype and ((x == 0) | (x == 1)).all()
    assert (x[:, 0, 0] == 0).all() and (x[:, 1, 1:] == 1).all()
    assert_mean(x.double(), probability.double())


def test_binary_draws_of_no_number_are_no_error():
    assert binary(torch.full((3,), torch.nan), make_generator(0)).sum() == 0


@each_size
@pytest.mark.parametrize("n_dimensions", [1, 2, 16, 300])
def test_even_noise_is_a_block_of_finite_numbers(n_draws, n_dimensions):
    noise = quasi_normal(n_draws, n_dimensions, seed=0)
    assert noise.shape == (n_draws, n_dimensions) and noise.dtype == torch.float64
    assert torch.isfinite(noise).all()


@each_size
def test_even_noise_is_determined_by_its_seed(n_draws):
    first, again, other = (quasi_normal(n_draws, 3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@each_size
def test_fewer_even_draws_are_the_first_of_more(n_draws):
    assert torch.equal(quasi_normal(n_draws, 3, 0), quasi_normal(2048, 3, 0)[:n_draws])


@pytest.fixture(scope="module")
def even_blocks():
    """Blocks of 20 points in 3 dimensions, one for each of 1500 seeds."""
    return torch.stack([quasi_normal(20, 3, seed) for seed in range(1500)])


@pytest.mark.parametrize("point", [0, 1, 7, 19])
def test_each_even_point_is_standard_normal_by_itself(even_blocks, point):
    p_values = [stats.kstest(even_blocks[:, point, d], "norm").pvalue for d in range(3)]
    assert min(p_values) > 2 * stats.norm.sf(4)


@pytest.mark.parametrize("point", [0, 19])
def test_coordinates_of_an_even_point_are_uncorrelated(even_blocks, point, assert_mean):
    z = even_blocks[:, point]
    assert_mean(z[:, [0, 0, 1]] * z[:, [1, 2, 2]], 0.0)


def test_averages_over_even_noise_are_unbiased(even_blocks, assert_mean):
    # E exp(z_1 / 2 + z_2 / 2) = exp(1 / 4), of a few points: what a likelihood averages.
    averages = (0.5 * even_blocks[:, :5, :2].sum(2)).exp().mean(1)
    assert_mean(averages, np.exp(0.25))


def test_averages_over_even_noise_vary_less_than_over_independent_noise():
    blocks = torch.stack([quasi_normal(256, 3, seed) for seed in range(200)])
    spread = blocks.square().mean(1).var(0)
    assert (spread < 0.2 * 2 / 256).all()


# --- construction of layers -----------------------------------------------------------------------


def test_layers_built_under_one_seed_are_equal():
    def build(seed):
        with lent_globals(make_generator(seed)):
            return nn.Linear(3, 2).weight

    assert torch.equal(build(5), build(5))
    assert not torch.equal(build(5), build(6))


def test_construction_that_fails_leaves_no_trace():
    with pytest.raises(ZeroDivisionError), lent_globals(make_generator(0)):
        nn.Linear(3, 2)
        raise ZeroDivisionError


def test_construction_nests():
    with lent_globals(make_generator(0)):
        expected = torch.rand(2)
    with lent_globals(make_generator(0)):
        with lent_globals(make_generator(1)):
            torch.rand(7)
        assert torch.equal(torch.rand(2), expected)


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def borrow_in_a_child():
    """Exit status of a forked child that borrows, within seconds; to be returned from at once."""
    pid = os.fork()
    if not pid:
        signal.alarm(5)
        try:
            with lent_globals(make_generator(1)), lent_globals(make_generator(2)):
                os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


@forks
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_thread_that_it_does_not_have():
    taken, over = threading.Event(), threading.Event()

    def borrow():
        with lent_globals(make_generator(0)):
            taken.set()
            over.wait()

    thread = threading.Thread(target=borrow)
    thread.start()
    taken.wait()
    status = borrow_in_a_child()
    over.set()
    thread.join()
    assert status == 0


@forks
def test_a_thread_may_fork_while_it_borrows():
    with lent_globals(make_generator(0)):
        assert borrow_in_a_child() == 0
