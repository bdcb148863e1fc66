"""Laws of the toy densities."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit

from skevae.datasets import TOY_DENSITIES, toy_density

NAMES = list(TOY_DENSITIES)
POTENTIALS = [name for name in NAMES if name.startswith("potential")]

# Published to 4 or 5 decimals, in nats.
ENTROPY = {
    "8gaussians": 2.83188,
    "checkerboard": np.log(32),
    "2spirals": 2.64545,
    "potential1": 2.6600,
    "potential2": 2.5821,
    "potential3": 2.6267,
    "potential4": 2.7662,
}
LOG_PARTITION = {
    "potential1": 1.8775,
    "potential2": 2.0821,
    "potential3": 2.6417,
    "potential4": 2.6846,
}

# Composite Gauss-Legendre rule on [-6, 6]^2. Edges of supports lie on edges of its panels, so it
# converges for densities that jump there; 24 x 24 panels of width 1/2 are also chi-square cells.
N_PANELS, N_NODES = 24, 8
EDGES = np.linspace(-6, 6, N_PANELS + 1)


def composite_rule():
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    x = (EDGES[:-1, None] + (nodes + 1) / 4).ravel()
    w = np.tile(weights / 4, N_PANELS)
    return np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2), np.outer(w, w)


@pytest.fixture(scope="module", params=NAMES)
def density(request):
    return toy_density(request.param)


@pytest.fixture(scope="module")
def quadrature(density):
    """Return nodes, weights and the density's logarithm there, each (nodes, nodes)."""
    X, weights = composite_rule()
    return X, weights, density.log_density(X).reshape(weights.shape)


@pytest.fixture(scope="module")
def draws(density):
    return density.sample(10_000, random_state=0)


# Laws of every density


def test_density_integrates_to_one(quadrature):
    _, weights, log_p = quadrature
    assert_allclose(np.sum(weights * np.exp(log_p)), 1, atol=1e-6)


def test_entropy_is_the_integral_and_the_published_number(density, quadrature):
    _, weights, log_p = quadrature
    p = np.exp(log_p)
    integral = -np.sum(weights * p * np.where(p > 0, log_p, 0))
    assert_allclose(density.entropy, integral, atol=1e-6)
    assert_allclose(density.entropy, ENTROPY[density.name], atol=5e-5)


def test_mean_log_density_of_draws_is_minus_the_entropy(density, draws):
    log_p = density.log_density(draws)
    standard_error = log_p.std() / np.sqrt(len(log_p))
    assert abs(log_p.mean() + density.entropy) <= 4 * standard_error + 1e-12


def test_histogram_of_draws_matches_the_density(density, quadrature):
    # So many that an error of a percent or two in the law of the draws shows.
    draws = density.sample(500_000, random_state=0)
    _, weights, log_p = quadrature
    cells = (weights * np.exp(log_p)).reshape(N_PANELS, N_NODES, N_PANELS, N_NODES).sum((1, 3))
    expected = len(draws) * cells / cells.sum()
    observed = np.histogram2d(*draws.T, bins=(EDGES, EDGES))[0]
    assert observed.sum() == len(draws)
    # The chi-square law needs counts that are not small: pool the cells that expect few.
    rare = expected < 5
    expected = np.append(expected[~rare], expected[rare].sum())
    observed = np.append(observed[~rare], observed[rare].sum())
    if expected[-1] < 1e-9:
        assert observed[-1] == 0
        expected, observed = expected[:-1], observed[:-1]
    statistic = np.sum((observed - expected) ** 2 / expected)
    assert 1e-4 < stats.chi2.sf(statistic, len(expected) - 1) < 1 - 1e-4


def test_draws_are_independent(density):
    # Were rows copied, mirrored or stratified, means of small batches would vary more or less
    # than the variance of a row over the size of the batch.
    size, n_batches = 10, 400
    rng = np.random.RandomState(0)
    batches = np.stack([density.sample(size, random_state=rng) for _ in range(n_batches)])
    rows = batches.reshape(-1, 2)
    ratio = size * batches.mean(axis=1).var(axis=0, ddof=1) / rows.var(axis=0, ddof=1)
    assert_allclose(ratio, 1, atol=4 * np.sqrt(2 / n_batches))
    assert len(np.unique(np.abs(rows).round(9), axis=0)) == len(rows)
    for column in range(2):
        assert abs(np.corrcoef(rows[1:, column], rows[:-1, column])[0, 1]) < 4 / np.sqrt(len(rows))


def test_draws_follow_the_seed(density):
    X = density.sample(50, random_state=3)
    assert X.shape == (50, density.n_features) and X.dtype == np.float64
    assert density.sample().shape == (1, 2)
    assert_array_equal(X, density.sample(50, random_state=3))
    assert_array_equal(X, density.sample(50, random_state=np.random.RandomState(3)))
    assert not np.array_equal(X, density.sample(50, random_state=4))
    rng = np.random.RandomState(3)
    assert not np.array_equal(density.sample(50, rng), density.sample(50, rng))


def test_no_seed_means_fresh_draws_and_the_global_generator_rests(density):
    np.random.seed(0)  # noqa: NPY002
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002
    X = density.sample(20)
    density.log_density(X)
    assert not np.array_equal(X, density.sample(20))
    assert pickle.dumps(np.random.get_state()) == before  # noqa: NPY002


def test_log_density_is_the_same_row_by_row(density, draws):
    X = draws[:200]
    single = np.concatenate([density.log_density(x[None]) for x in X[:20]])
    assert_allclose(density.log_density(X)[:20], single, rtol=1e-12)
    assert_array_equal(density.log_density(X.tolist()), density.log_density(X))


def test_density_survives_pickle(density):
    copy = pickle.loads(pickle.dumps(density))
    assert_array_equal(copy.sample(5, random_state=0), density.sample(5, random_state=0))
    assert repr(copy) == f"toy_density({density.name!r})"


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((4, 3)), "X has 3 features, but .* expecting 2"),
        (np.zeros(4), "Expected 2D array"),
        (np.zeros((0, 2)), "minimum of 1 is required"),
        ([[np.nan, 0]], "contains NaN"),
        ([["a", "b"]], "could not convert string"),
    ],
)
def test_wrong_points_are_refused(density, X, message):
    with pytest.raises(ValueError, match=message):
        density.log_density(X)
    if hasattr(density, "energy"):
        with pytest.raises(ValueError, match=message):
            density.energy(X)


@pytest.mark.parametrize(
    ("n_samples", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)]
)
def test_wrong_numbers_of_draws_are_refused(density, n_samples, error):
    with pytest.raises(error, match="n_samples"):
        density.sample(n_samples)


@pytest.mark.parametrize("name", ["gaussians", None, 8])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=rf"name must be one of '8gaussians', .*got {name!r}"):
        toy_density(name)


# Laws of some densities


def test_eight_gaussians_shift_by_an_eighth_of_a_turn():
    density = toy_density("8gaussians")
    X = density.sample(100, random_state=0)
    turn = np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    assert_allclose(density.log_density(X @ turn), density.log_density(X))
    # At a centre the other seven components are far: one Gaussian of variance 1/8, over 8.
    center = [[4 / 1.414, 0]]
    assert_allclose(
        density.log_density(center), -np.log(16 * np.pi * (0.5 / 1.414) ** 2), atol=1e-8
    )


def test_checkerboard_is_uniform_on_its_dark_squares():
    density = toy_density("checkerboard")
    log_p = density.log_density([[-4, -4], [-3, -1], [1, 1], [1, -1], [-1, -1], [4.1, 1], [-5, -3]])
    assert_array_equal(np.isfinite(log_p), [True, False, True, False, True, False, False])
    assert_allclose(log_p[0], -3.46574, atol=1e-5)


def test_two_spirals_match_an_adaptive_integral_of_their_definition():
    def coordinate(t):  # uniform on an interval of width 1/6, plus noise of scale 0.1
        return 6 * (stats.norm.cdf((t + 1 / 12) / 0.1) - stats.norm.cdf((t - 1 / 12) / 0.1))

    def integrand(n, x1, x2):
        c1, c2 = (0.25 - n * np.cos(n)) / 3, (0.25 + n * np.sin(n)) / 3
        arms = sum(coordinate(s * x1 - c1) * coordinate(s * x2 - c2) for s in (-1, 1))
        return n / (3 * np.pi) ** 2 * arms

    X = np.array([[0, 0], [0.083, 0.083], [1.5, -0.4], [3.2, 0.1], [-2.0, 2.1], [0.9, 2.6]])
    pieces = np.linspace(0, 3 * np.pi, 25)
    p = [
        sum(quad(integrand, *piece, args=tuple(x), epsabs=1e-13)[0] for piece in pairwise(pieces))
        for x in X
    ]
    assert_allclose(toy_density("2spirals").log_density(X), np.log(p), atol=1e-7)


def test_two_spirals_stay_finite_far_away():
    density = toy_density("2spirals")
    X = np.array([[3.0, 4.0]]) * np.array([1, 2, 10, 1000])[:, None]
    log_p = density.log_density(X)
    assert np.all(np.isfinite(log_p)) and np.all(np.diff(log_p) < 0)
    assert_allclose(density.log_density(-X), log_p)
    # Far out the Gaussian noise rules: ln p ~ -|x - nearest|^2 / (2 0.1^2).
    assert_allclose(log_p[-1], -0.5 * (5000 / 0.1) ** 2, rtol=2e-3)


@pytest.mark.parametrize("name", POTENTIALS)
def test_potential_is_its_energy_on_the_box_and_nothing_off_it(name):
    density = toy_density(name)
    assert_allclose(density.log_partition, LOG_PARTITION[name], atol=5e-5)
    X = np.random.RandomState(0).uniform(-4, 4, (100, 2))
    assert_allclose(density.log_density(X), -density.energy(X) - density.log_partition)
    outside = [[4.001, 0], [0, -4.001], [9, 9]]
    assert np.all(np.isneginf(density.log_density(outside)))
    assert np.all(np.isfinite(density.energy(outside)))
    assert np.all(np.abs(density.sample(2000, random_state=0)) <= 4)


@pytest.mark.parametrize("name", POTENTIALS)
def test_energy_is_the_published_formula(name):
    z1, z2 = np.random.RandomState(0).uniform(-4, 4, (2, 50))
    w1 = np.sin(2 * np.pi * z1 / 4)
    w2 = 3 * np.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 * expit((z1 - 1) / 0.3)

    def bump(x):
        return np.exp(-0.5 * x**2)

    exp_minus_energy = {
        "potential1": bump((np.hypot(z1, z2) - 2) / 0.4)
        * (bump((z1 - 2) / 0.6) + bump((z1 + 2) / 0.6)),
        "potential2": bump((z2 - w1) / 0.4),
        "potential3": bump((z2 - w1) / 0.35) + bump((z2 - w1 + w2) / 0.35),
        "potential4": bump((z2 - w1) / 0.4) + bump((z2 - w1 + w3) / 0.35),
    }[name]
    energy = toy_density(name).energy(np.column_stack([z1, z2]))
    assert_allclose(energy, -np.log(exp_minus_energy))
