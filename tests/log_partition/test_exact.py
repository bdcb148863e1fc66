"""Laws of the hidden units' exact partition function, moments and samples, against enumeration."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product
from threading import Barrier

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import quick_and_slow
from scipy import stats
from scipy.special import logsumexp
from torch.autograd import gradcheck

from skevae.log_partition import ising as ising_module
from skevae.log_partition.blocks import block_sizes, configurations
from skevae.log_partition.exact import log_partition
from skevae.log_partition.ising import IsingModel
from skevae.utils.ranks import ALONE, Ranks

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
DTYPES = [torch.float64, torch.float32]
SIZES = range(1, 15)
NORMS = [0.1, 1.0, 10.0, 50.0]

# A test at 4 standard errors, as a probability.
FOUR_SIGMA = 2 * stats.norm.sf(4)


# --- machines: (a, J) in float64 ------------------------------------------------------------------


def random_machine(n_units, norm, seed=0):
    """J = W'W with columns of length `norm`, as an RBM has it."""
    source = np.random.default_rng([seed, n_units])
    weight = source.normal(size=(4, n_units))
    weight *= norm / np.linalg.norm(weight, axis=0)
    return source.normal(size=n_units), weight.T @ weight


def balanced_machine(n_units, norm, seed=0):
    """Bias -diag(J)/2 takes each unit's own energy out: very many configurations compete."""
    _, coupling = random_machine(n_units, norm, seed)
    return -0.5 * np.diag(coupling), coupling


def symmetric_machine(n_units, norm, seed=0):
    """Bias -J1/2: flipping all units changes nothing, so modes come in equal pairs, far apart."""
    _, coupling = random_machine(n_units, norm, seed)
    return -0.5 * coupling.sum(0), coupling


def glassy_machine(n_units, norm, seed=0):
    """Couplings +-norm at random without a diagonal: frustrated, no gauge makes all agree."""
    source = np.random.default_rng([seed, n_units])
    upper = np.triu(norm * source.choice([-1.0, 1.0], size=(n_units, n_units)), 1)
    coupling = upper + upper.T
    return -0.5 * coupling.sum(0), coupling


def frustrated_triangle(n_units, norm, seed=0):
    """Blocks A and B attract, A and C attract, B and C repel: A, AB, AC and ABC are at odds.

    With one unit in each block the energies of (A, B), (A, C) and (A, B, C) are equal, but the best
    B for A alone is on and the best B for C alone is off: the sum over B of the pair (A, C) is
    exp(-norm) on the scale of the row and column maxima.
    """
    sizes = block_sizes(n_units)
    block = np.repeat([0, 1, 2], sizes)
    sign = np.array([[0, 1, 1], [1, 0, -1], [1, -1, 0]])
    share = np.sqrt(np.array(sizes, dtype=float))[block]
    coupling = norm * sign[np.ix_(block, block)] / np.outer(share, share)
    return np.random.default_rng(seed).normal(size=n_units), coupling


MACHINES = {
    "random": random_machine,
    "balanced": balanced_machine,
    "two equal modes": symmetric_machine,
    "glassy": glassy_machine,
    "triangle": frustrated_triangle,
}
HARD = [name for name in MACHINES if name != "random"]


def tensors(machine, dtype=torch.float64):
    return tuple(torch.as_tensor(part, dtype=dtype) for part in machine)


def exact(machine):
    """All h, and their log-weights, by enumeration in float64."""
    bias, coupling = machine
    codes = np.arange(2 ** len(bias))
    h = ((codes[:, None] >> np.arange(len(bias))) & 1).astype(float)
    return h, h @ bias + 0.5 * np.einsum("ki,ij,kj->k", h, coupling, h)


def exact_moments(machine):
    h, log_weights = exact(machine)
    p = np.exp(log_weights - logsumexp(log_weights))
    return p @ h, h.T @ (h * p[:, None])


def rounding(machine, dtype):
    """Bound of the rounding error of ln Z.

    An exponent is a sum of at most H^2 terms taken in dot products of up to H of them, of total
    size at most |a| + |J| / 2; taking maxima out and in again doubles that.
    """
    bias, coupling = machine
    size = np.abs(bias).sum() + 0.5 * np.abs(coupling).sum() + len(bias)
    return 2 * (len(bias) + 4) * torch.finfo(dtype).eps * size


def as_rounded(machine, dtype):
    """Return the machine as it is after its numbers are rounded to `dtype`."""
    return tuple(part.double().numpy() for part in tensors(machine, dtype))


# --- ln Z -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("n_units", SIZES)
def test_log_partition_is_the_logsumexp_of_all_configurations(n_units, dtype, tolerance):
    for norm in NORMS:
        machine = as_rounded(random_machine(n_units, norm), dtype)
        value = log_partition(*tensors(machine, dtype))
        assert value.dtype == dtype and value.shape == ()
        assert value.item() == pytest.approx(logsumexp(exact(machine)[1]), rel=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", HARD)
def test_log_partition_is_right_where_configurations_compete(kind, dtype):
    for n_units, norm in product([3, 4, 5, 9, 12], [*NORMS, 1000.0]):
        machine = as_rounded(MACHINES[kind](n_units, norm), dtype)
        truth = logsumexp(exact(machine)[1])
        value = log_partition(*tensors(machine, dtype)).item()
        assert abs(value - truth) <= rounding(machine, dtype), (n_units, norm)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    n_units=st.integers(1, 9),
    log10_norm=st.floats(-2, 3.5),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(sorted(MACHINES)),
)
def test_log_partition_of_any_machine(n_units, log10_norm, seed, dtype, kind):
    machine = as_rounded(MACHINES[kind](n_units, 10**log10_norm, seed), dtype)
    truth = logsumexp(exact(machine)[1])
    assert abs(log_partition(*tensors(machine, dtype)).item() - truth) <= rounding(machine, dtype)


def test_no_units_have_one_configuration():
    model = IsingModel(torch.zeros(0), torch.zeros(0, 0))
    assert model.log_partition == 0
    mean, second = model.moments()
    assert mean.shape == (0,) and second.shape == (0, 0)
    assert model.sample(3, torch.Generator().manual_seed(0)).shape == (3, 0)


def test_free_units_factorise():
    bias = torch.linspace(-3, 3, 7, dtype=torch.float64)
    value = log_partition(bias, torch.zeros(7, 7, dtype=torch.float64))
    torch.testing.assert_close(value, bias.exp().log1p().sum(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relabelling_units_changes_nothing(dtype):
    bias, coupling = tensors(balanced_machine(10, 3.0), dtype)
    order = torch.as_tensor(np.random.default_rng(0).permutation(10))
    here = log_partition(bias, coupling)
    there = log_partition(bias[order], coupling[order][:, order])
    tolerance = rounding(balanced_machine(10, 3.0), dtype)
    assert abs(here - there) <= 2 * tolerance


def test_only_the_symmetric_part_of_the_coupling_counts():
    bias, coupling = tensors(random_machine(8, 1.0))
    twist = torch.triu(torch.ones(8, 8, dtype=torch.float64), 1)
    skewed = log_partition(bias, coupling + twist - twist.mT)
    torch.testing.assert_close(skewed, log_partition(bias, coupling), rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_float32_stays_finite_at_extreme_couplings(kind):
    model = IsingModel(*tensors(MACHINES[kind](12, 3000.0), torch.float32))
    mean, second = model.moments()
    assert torch.isfinite(model.log_partition)
    assert torch.isfinite(second).all() and torch.isfinite(mean).all()


# --- blocks and tables ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_units", [*range(16), 31, 32, 33])
def test_blocks_share_the_units_as_equally_as_they_can(n_units):
    sizes = block_sizes(n_units)
    assert sum(sizes) == n_units and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("n_units", range(5))
def test_configurations_are_all_binary_rows_once(n_units):
    rows = configurations(n_units, torch.float64, torch.device("cpu"))
    assert rows.shape == (2**n_units, n_units)
    assert len({tuple(row) for row in rows.tolist()}) == 2**n_units
    assert ((rows == 0) | (rows == 1)).all()


# --- moments and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_moments_are_those_of_all_configurations(kind):
    for n_units, norm in product([1, 2, 3, 7, 11], [0.1, 1.0, 10.0, 1000.0]):
        machine = MACHINES[kind](n_units, norm)
        mean, second = IsingModel(*tensors(machine)).moments()
        expected_mean, expected_second = exact_moments(machine)
        # The error of a probability is that of its exponent, known to rounding and no better.
        tolerance = 1e-12 + 2 * rounding(machine, torch.float64)
        np.testing.assert_allclose(mean, expected_mean, rtol=0, atol=tolerance)
        np.testing.assert_allclose(second, expected_second, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", sorted(MACHINES))
@pytest.mark.parametrize("norm", [1.0, 10.0])
def test_float32_moments_are_right_to_the_rounding_of_exponents(norm, kind):
    machine = as_rounded(MACHINES[kind](9, norm), torch.float32)
    mean, second = IsingModel(*tensors(machine, torch.float32)).moments()
    tolerance = 1e-6 + 2 * rounding(machine, torch.float32)
    np.testing.assert_allclose(second, exact_moments(machine)[1], rtol=0, atol=tolerance)
    np.testing.assert_allclose(mean, exact_moments(machine)[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_second_moments_are_those_of_binary_units(kind):
    mean, second = IsingModel(*tensors(MACHINES[kind](8, 5.0))).moments()
    torch.testing.assert_close(second, second.mT, rtol=0, atol=1e-14)
    torch.testing.assert_close(second.diagonal(), mean, rtol=0, atol=0)
    # Frechet: P(i and j) is at most either marginal, and at least their sum less one.
    assert (second <= torch.minimum(mean[:, None], mean) + 1e-12).all()
    assert (second >= mean[:, None] + mean - 1 - 1e-12).all()


@pytest.mark.parametrize("kind", sorted(MACHINES))
@pytest.mark.parametrize("n_units", [1, 2, 3, 4, 6])
def test_gradient_matches_finite_differences(n_units, kind):
    machine = tensors(MACHINES[kind](n_units, 2.0))
    assert gradcheck(log_partition, [part.requires_grad_() for part in machine])


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_gradient_is_the_exact_moments(kind):
    machine = MACHINES[kind](8, 3.0)
    bias, coupling = (part.requires_grad_() for part in tensors(machine))
    (3.0 * log_partition(bias, coupling)).backward()
    mean, second = exact_moments(machine)
    np.testing.assert_allclose(bias.grad, 3 * mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(coupling.grad, 1.5 * second, rtol=0, atol=1e-11)


# --- samples --------------------------------------------------------------------------------------


def sample_law_p_value(machine, rows):
    """Chi-square of the counts of each configuration; those expected below 5 times are pooled."""
    _, log_weights = exact(machine)
    expected = len(rows) * np.exp(log_weights - logsumexp(log_weights))
    codes = (rows.double().numpy() @ 2.0 ** np.arange(rows.shape[1])).astype(int)
    observed = np.bincount(codes, minlength=len(expected)).astype(float)
    rare = expected < 5
    assert observed[expected < 1e-9].sum() == 0
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5:  # even the pool is too small for a cell of its own
        observed[-2] += observed[-1]
        expected[-2] += expected[-1]
        observed, expected = observed[:-1], expected[:-1]
    statistic = ((observed - expected) ** 2 / expected).sum()
    return stats.chi2.sf(statistic, max(1, len(expected) - 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", [0.5, 3.0, 200.0])
@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_samples_follow_the_enumerated_law(kind, norm, dtype, generator):
    machine = as_rounded(MACHINES[kind](6, norm), dtype)
    rows = IsingModel(*tensors(machine, dtype)).sample(20_000, generator(1))
    assert rows.dtype == dtype and rows.shape == (20_000, 6)
    # float32 exponents are known to `rounding`, which must not show among 20000 draws.
    if rounding(machine, dtype) < 0.1 / math.sqrt(20_000):
        assert sample_law_p_value(machine, rows) > FOUR_SIGMA


@pytest.mark.parametrize("n_units", [1, 2, 3, 4])
def test_samples_of_few_units_follow_the_enumerated_law(n_units, generator):
    machine = balanced_machine(n_units, 2.0)
    rows = IsingModel(*tensors(machine)).sample(20_000, generator(2))
    assert sample_law_p_value(machine, rows) > FOUR_SIGMA


def test_samples_are_independent(assert_mean, generator):
    # Weak couplings: no unit is so seldom on that its standard error cannot be seen.
    machine = balanced_machine(5, 0.5)
    rows = IsingModel(*tensors(machine)).sample(20_001, generator(3))
    centred = rows - torch.as_tensor(exact_moments(machine)[0])
    assert_mean(centred[1:] * centred[:-1], 0.0)


def test_samples_are_determined_by_the_generator(generator):
    model = IsingModel(*tensors(balanced_machine(7, 1.0)))
    assert torch.equal(model.sample(50, generator(0)), model.sample(50, generator(0)))
    assert not torch.equal(model.sample(50, generator(0)), model.sample(50, generator(1)))


def test_no_samples_are_no_rows(generator):
    assert IsingModel(*tensors(random_machine(5, 1.0))).sample(0, generator()).shape == (0, 5)


# --- underflow and its repair ---------------------------------------------------------------------


@pytest.fixture
def repaired(monkeypatch):
    """Count the pairs (A, C) that are summed in log space."""
    counts = []
    original = IsingModel._log_weights

    def spy(self, strip, log_total):
        log_weights, repair = original(self, strip, log_total)
        counts.append(0 if repair is None else repair.a.numel())
        return log_weights, repair

    monkeypatch.setattr(IsingModel, "_log_weights", spy)
    return counts


# A coupling whose exponential leaves the range of each dtype.
BEYOND_RANGE = {torch.float64: 1000.0, torch.float32: 120.0}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frustrated_triangle_is_repaired_to_its_closed_form(dtype, repaired):
    strength = BEYOND_RANGE[dtype]
    _, coupling = frustrated_triangle(3, strength)
    model = IsingModel(torch.zeros(3, dtype=dtype), torch.as_tensor(coupling, dtype=dtype))
    assert sum(repaired) > 0
    # AB, AC and ABC have weight exp(strength) each; the rest is invisible beside it.
    tolerance = 4 * torch.finfo(dtype).eps * strength
    assert model.log_partition.item() == pytest.approx(strength + math.log(3), abs=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_of_a_repaired_triangle_are_thirds(dtype, repaired):
    strength = BEYOND_RANGE[dtype]
    _, coupling = frustrated_triangle(3, strength)
    model = IsingModel(torch.zeros(3, dtype=dtype), torch.as_tensor(coupling, dtype=dtype))
    mean, second = model.moments()
    expected = torch.tensor([[3, 2, 2], [2, 2, 1], [2, 1, 2]], dtype=dtype) / 3
    tolerance = 16 * torch.finfo(dtype).eps * strength
    torch.testing.assert_close(second, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(mean, expected.diagonal(), rtol=0, atol=tolerance)
    assert sum(repaired) > 0


def test_a_repaired_triangle_is_sampled_in_thirds(generator, repaired):
    _, coupling = frustrated_triangle(3, 1000.0)
    machine = np.zeros(3), coupling
    rows = IsingModel(*tensors(machine)).sample(20_000, generator(4))
    assert sum(repaired) > 0
    assert sample_law_p_value(machine, rows) > FOUR_SIGMA


@pytest.mark.parametrize("kind", HARD)
def test_gradients_pass_through_repair(kind, repaired):
    machine = MACHINES[kind](9, 3000.0)
    bias, coupling = (part.requires_grad_() for part in tensors(machine))
    log_partition(bias, coupling).backward()
    tolerance = 1e-12 + 2 * rounding(machine, torch.float64)
    np.testing.assert_allclose(bias.grad, exact_moments(machine)[0], rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        coupling.grad, 0.5 * exact_moments(machine)[1], rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_ordinary_couplings_need_no_repair(kind, repaired):
    IsingModel(*tensors(MACHINES[kind](12, 3.0))).moments()
    assert sum(repaired) == 0


# --- strips ---------------------------------------------------------------------------------------


@pytest.fixture
def n_elements(request, monkeypatch):
    """Work the tables off in strips of so many elements, as H > 33 would."""
    monkeypatch.setattr(ising_module, "STRIP_ELEMENTS", request.param)


STRIPS = [1, 8, 64]
in_strips = pytest.mark.parametrize("n_elements", STRIPS, indirect=True)


@in_strips
@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_strips_give_the_same_value(kind, n_elements):
    for norm in (1.0, 10.0, 1000.0):
        machine = MACHINES[kind](10, norm)
        value = log_partition(*tensors(machine)).item()
        assert abs(value - logsumexp(exact(machine)[1])) <= rounding(machine, torch.float64)


@in_strips
@pytest.mark.parametrize("kind", sorted(MACHINES))
def test_strips_give_the_same_moments(kind, n_elements):
    for norm in (1.0, 1000.0):
        machine = MACHINES[kind](8, norm)
        mean, second = IsingModel(*tensors(machine)).moments()
        tolerance = 1e-12 + 2 * rounding(machine, torch.float64)
        np.testing.assert_allclose(mean, exact_moments(machine)[0], rtol=0, atol=tolerance)
        np.testing.assert_allclose(second, exact_moments(machine)[1], rtol=0, atol=tolerance)


@quick_and_slow(
    "kind, n_elements",
    zip(sorted(MACHINES), cycle(STRIPS), strict=False),
    product(sorted(MACHINES), STRIPS),
    indirect=["n_elements"],
)
def test_strips_sample_the_same_law(kind, n_elements, generator):
    machine = MACHINES[kind](6, 3.0)
    rows = IsingModel(*tensors(machine)).sample(20_000, generator(5))
    assert sample_law_p_value(machine, rows) > FOUR_SIGMA


def test_strips_never_hold_more_than_they_may(monkeypatch):
    monkeypatch.setattr(ising_module, "STRIP_ELEMENTS", 64)
    model = IsingModel(*tensors(random_machine(12, 1.0)))
    strips = list(model._strips())
    assert len(strips) > 1
    assert all(strip.product.numel() <= 64 and strip.exp_ab.numel() <= 64 for strip in strips)
    assert sum(strip.product.shape[0] for strip in strips) == 2 ** block_sizes(12)[0]


# --- ranks ----------------------------------------------------------------------------------------


class Threads(Ranks):
    """Ranks that are threads of one process."""

    def __init__(self, rank, size, parts, barrier):
        self.rank, self.size, self.parts, self.barrier = rank, size, parts, barrier

    def add_up(self, tensor):
        self.parts[self.rank] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(sum(self.parts))
        self.barrier.wait()


def on_threads(size, function):
    """What ``function(ranks)`` returns on each rank."""
    parts, barrier = [None] * size, Barrier(size, timeout=60)
    with ThreadPoolExecutor(size) as pool:
        return list(
            pool.map(lambda rank: function(Threads(rank, size, parts, barrier)), range(size))
        )


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("n_units, norm", [(1, 1.0), (4, 1.0), (11, 1.0), (11, 300.0)])
def test_ranks_share_the_sum_over_configurations(size, n_units, norm, monkeypatch):
    """Value and moments are those of one process, also with strips and repaired underflow."""
    monkeypatch.setattr(ising_module, "STRIP_ELEMENTS", 64)
    rng = np.random.RandomState(n_units)
    bias = torch.from_numpy(norm * rng.randn(n_units))
    coupling = norm * rng.randn(n_units, n_units)
    coupling = torch.from_numpy(coupling + coupling.T)

    def results(ranks):
        model = IsingModel(bias, coupling, ranks=ranks)
        return model.log_partition, *model.moments()

    expected = results(ALONE)
    for found in on_threads(size, results):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
