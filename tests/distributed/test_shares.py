"""How rows, and what is known of them, are divided among ranks and put together again."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skevae.estimators.kinds import Kind, joined
from skevae.training.loop import minibatch_sizes
from skevae.utils.digest import rows_digest
from skevae.utils.ranks import Ranks


class Parts(Ranks):
    """Ranks whose values are given."""

    def __init__(self, *values):
        self.values, self.size = values, len(values)

    def gather(self, value):
        return list(self.values)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 40))
def test_minibatches_of_all_ranks_are_those_of_one(counts, batch_size):
    total = sum(counts)
    if not total:
        return
    sizes = np.array([minibatch_sizes(n, total, batch_size) for n in counts])
    np.testing.assert_array_equal(sizes.sum(1), counts)
    full = [len(part) for part in torch.arange(total).split(batch_size)]
    assert minibatch_sizes(total, total, batch_size) == full
    assert np.abs(sizes.sum(0) - full).max() < len(counts)


def test_a_digest_is_of_a_table_however_it_is_cut():
    X = np.random.RandomState(0).randn(50, 3)
    whole = rows_digest(X, 0)
    assert (rows_digest(X[:7], 0) + rows_digest(X[7:], 7)) % 2**64 == whole
    changed = X.copy()
    changed[3, 1] = np.nextafter(changed[3, 1], 9)
    others = [changed, X[::-1], X[:, ::-1], X[:-1], X.astype(np.float32)]
    assert len({whole, *(rows_digest(other, 0) for other in others)}) == 6


@pytest.mark.parametrize("empty", [False, True])
def test_moments_of_parts_are_those_of_the_whole(empty):
    X = np.random.RandomState(0).randn(60, 4) + 1e3
    parts = [X[:5], X[5:50], X[50:]]
    found = [(part.mean(0), part.var(0), float(len(part))) for part in parts]
    if empty:
        found.append((np.full(4, np.nan), np.full(4, np.nan), 0.0))
    mean, variance, count = Parts(*found).moments(found[0])
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-13)
    np.testing.assert_allclose(variance, X.var(0), rtol=1e-10)
    assert (count == 60).all()


@pytest.mark.parametrize(
    "parts, kind",
    [
        ([Kind(integer=True), Kind(integer=True)], (False, True)),
        # As pandas reads integers with holes, of which one part has none.
        (
            [
                Kind(floating=True, has_holes=True, has_values=True),
                Kind(floating=True, has_values=True),
            ],
            (False, True),
        ),
        ([Kind(integer=True), Kind(floating=True, has_fractions=True)], (False, False)),
        ([Kind(integer=True, has_values=True), Kind(floating=True, has_holes=True)], (False, True)),
        ([Kind(), Kind(categorical=True)], (True, False)),
        ([Kind(floating=True, has_holes=True)], (False, False)),
    ],
)
def test_the_kind_of_a_column_is_that_of_all_its_parts(parts, kind):
    assert joined(parts) == joined(parts[::-1]) == kind


def test_ranks_that_differ_are_told_in_what():
    with pytest.raises(ValueError, match=r"Ranks differ in the width: rank 0 has 3, rank 2 has 4"):
        Parts(3, 3, 4).agree("the width", 3)
