"""Laws of the toy densities and of binarised MNIST."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit
from sklearn.utils import Bunch

from skevae.datasets import TOY_DENSITIES, mnist, toy_density
from skevae.datasets.mnist import fetch_binarized_mnist

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


# Binarised MNIST, on a small copy with the same proportions


@pytest.fixture(scope="module")
def raw():
    """Return 70 images, each with its index in the first pixel, and labels."""
    images = np.random.RandomState(0).randint(256, size=(70, 784)).astype(np.uint8)
    images[:, 0] = np.arange(70)
    images[:, 1], images[:, 2] = 0, 255
    return images, np.arange(70) % 10


@pytest.fixture
def openml(raw, monkeypatch):
    """Replace the download; return the list of its calls."""
    calls = []

    def fetch_openml(*args, **kwargs):
        calls.append((args, kwargs))
        return Bunch(data=raw[0].astype(np.float64), target=raw[1].astype(str).astype(object))

    monkeypatch.setattr(mnist, "fetch_openml", fetch_openml)
    return calls


@pytest.fixture
def raw_npz(raw, tmp_path):
    images, y = raw[0].reshape(-1, 28, 28), raw[1]
    path = tmp_path / "mnist.npz"
    np.savez(path, train=images[:60], train_y=y[:60], test=images[60:], test_y=y[60:])
    return path


@pytest.fixture
def static_npz(tmp_path):
    rng = np.random.RandomState(1)
    parts = {"train": 50, "valid": 10, "test": 10}
    arrays = {part: rng.randint(2, size=(n, 784)).astype(np.uint8) for part, n in parts.items()}
    np.savez(tmp_path / "static.npz", **arrays)
    return tmp_path / "static.npz", arrays


@pytest.mark.parametrize(
    ("subset", "rows"),
    [
        ("train", slice(0, 50)),
        ("valid", slice(50, 60)),
        ("train+valid", slice(0, 60)),
        ("test", slice(60, 70)),
    ],
)
def test_sources_and_subsets_agree(raw, openml, raw_npz, subset, rows):
    images, y = raw
    fetched = fetch_binarized_mnist(subset=subset, data_home="somewhere")
    assert openml == [(("mnist_784",), dict(version=1, as_frame=False, data_home="somewhere"))]
    assert fetched.data.dtype == np.float32
    assert_allclose(fetched.data, images[rows] / 255, rtol=1e-6)
    assert_array_equal(fetched.target, y[rows])
    assert subset in fetched.DESCR and "dynamic" in fetched.DESCR
    X, target = fetch_binarized_mnist(subset=subset, local_npz=raw_npz, return_X_y=True)
    assert_array_equal(X, fetched.data)
    assert_array_equal(target, fetched.target)
    assert len(openml) == 1


def test_static_draw_has_the_intensities_as_its_means(openml):
    p = fetch_binarized_mnist(subset="test").data
    draws = np.stack(
        [
            fetch_binarized_mnist(subset="test", binarization="static", random_state=seed).data
            for seed in range(300)
        ]
    )
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0, 1}
    assert_array_equal(draws[:, p == 0], 0)
    assert_array_equal(draws[:, p == 1], 1)
    random = (p > 0) & (p < 1)
    z = (draws.mean(axis=0) - p)[random] / np.sqrt(p * (1 - p) / len(draws))[random]
    assert_allclose([z.mean(), z.std()], [0, 1], atol=0.05)


def test_static_draw_follows_the_seed_and_not_the_subset(openml):
    def draw(subset, random_state):
        return fetch_binarized_mnist(
            subset=subset, binarization="static", random_state=random_state
        ).data

    both = np.concatenate([draw("train", 0), draw("valid", 0)])
    assert_array_equal(draw("train+valid", 0), both)
    assert_array_equal(draw("test", 0), draw("test", np.random.RandomState(0)))
    assert not np.array_equal(draw("test", 0), draw("test", 1))
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002
    assert not np.array_equal(draw("test", None), draw("test", None))
    assert pickle.dumps(np.random.get_state()) == before  # noqa: NPY002


def test_static_split_is_returned_as_it_is(static_npz):
    path, arrays = static_npz
    for part, expected in arrays.items():
        X, y = fetch_binarized_mnist(
            subset=part, binarization="static", local_npz=path, return_X_y=True
        )
        assert_array_equal(X, expected)
        assert y is None


def test_static_split_has_no_intensities(static_npz):
    with pytest.raises(ValueError, match="'dynamic' needs intensities"):
        fetch_binarized_mnist(local_npz=static_npz[0])


@pytest.mark.parametrize("parameter", ["subset", "binarization"])
def test_unknown_choices_are_refused(parameter, openml):
    with pytest.raises(ValueError, match=rf"{parameter} must be one of .*; got 'all'"):
        fetch_binarized_mnist(**{parameter: "all"})
    assert not openml


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, r"no array 'train'; it has \['test'\]"),
        (np.full((6, 100), 9), "784 pixels; got 100"),
        (np.full((6, 784), 0.5), "integers in 0..255"),
        (np.full((6, 784), 256), "integers in 0..255"),
        (np.full((6, 784), -1), "integers in 0..255"),
        (np.full((6, 784), np.nan), "integers in 0..255"),
    ],
)
def test_wrong_files_are_refused(train, message, tmp_path):
    arrays = {"test": np.full((2, 784), 9)} | ({} if train is None else {"train": train})
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        fetch_binarized_mnist(local_npz=tmp_path / "wrong.npz")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz"):
        fetch_binarized_mnist(local_npz=tmp_path / "nowhere.npz")
