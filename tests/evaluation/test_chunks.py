"""An evaluation in pieces stays within the memory granted, and its pieces are not too small."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skevae.evaluation.chunks import CACHE_BYTES, MIN_ROWS, balanced, chunk_sizes, widest_output
from skevae.utils.linear import ROWS_MULTIPLE
from skevae.utils.random import lent_globals, make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


sizes = st.tuples(
    st.integers(1, 10**7),  # rows
    st.integers(1, 10**5),  # draws
    st.integers(1, 10**5),  # width
    st.sampled_from([4, 8]),
    st.integers(1, 2**32),  # bytes
)
chunk_law = settings(deadline=None, max_examples=200, derandomize=True)


@chunk_law
@given(sizes)
def test_chunks_hold_something_and_no_more_than_there_is(size):
    rows, draws = chunk_sizes(*size)
    assert 1 <= rows <= size[0] and 1 <= draws <= size[1]


@chunk_law
@given(sizes)
def test_chunks_keep_layers_within_the_bytes_granted(size):
    _, _, width, itemsize, max_bytes = size
    rows, draws = chunk_sizes(*size)
    layer = itemsize * rows * draws * width
    # Input, output and two temporaries; less than one row and one draw cannot be had.
    assert 4 * layer <= max_bytes or rows == draws == 1


@chunk_law
@given(sizes)
def test_chunks_keep_tables_of_weights_within_the_bytes_granted(size):
    _, n_draws, _, itemsize, max_bytes = size
    rows, _ = chunk_sizes(*size)
    assert 8 * itemsize * rows * n_draws <= max_bytes or rows == 1


@chunk_law
@given(sizes)
def test_chunks_have_few_rows_rather_than_few_draws(size):
    """So that products have a multiple of 16 rows, whatever the number of rows of X."""
    rows, draws = chunk_sizes(*size)
    assert draws % ROWS_MULTIPLE == 0 or draws == size[1] or (draws < ROWS_MULTIPLE and rows == 1)


@chunk_law
@given(st.integers(1, 10**5), st.integers(1, 10**4), st.integers(1, 128))
def test_threads_have_equally_many_chunks(n_rows, at_most, n_threads):
    rows = balanced(n_rows, at_most, n_threads)
    assert 1 <= rows <= at_most
    assert rows >= min(MIN_ROWS, at_most, n_rows)
    busy = min(n_threads, max(1, n_rows // MIN_ROWS))
    rounds = math.ceil(n_rows / (busy * at_most))
    assert math.ceil(n_rows / rows) <= busy * rounds


def test_chunks_of_a_small_evaluation_are_the_whole():
    assert chunk_sizes(100, 10, 64, 8, 2**30) == (100, 10)


def test_chunks_stay_in_a_cache_however_much_memory_is_granted():
    rows, draws = chunk_sizes(10**6, 1000, 64, 4, 2**50)
    assert 4 * rows * draws * 64 <= CACHE_BYTES


@pytest.mark.parametrize("widths", [(), (50,), (5, 50, 7)])
def test_widest_output_is_the_widest_layer(widths):
    with lent_globals(make_generator(0)):
        stack = nn.Sequential(
            *(nn.Linear(a, b) for a, b in zip((4, *widths), (*widths, 2), strict=True))
        )
    assert widest_output(stack, torch.zeros(1, 4)) == max(4, *widths, 2)


def test_widest_output_leaves_no_hooks():
    with lent_globals(make_generator(0)):
        stack = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 2))
    widest_output(stack, torch.zeros(1, 4))
    assert all(not layer._forward_hooks for layer in stack.modules())


def test_widest_output_leaves_no_hooks_after_an_error():
    with lent_globals(make_generator(0)):
        stack = nn.Sequential(nn.Linear(4, 9), nn.Linear(8, 2))
    with pytest.raises(RuntimeError):
        widest_output(stack, torch.zeros(1, 4))
    assert all(not layer._forward_hooks for layer in stack.modules())
