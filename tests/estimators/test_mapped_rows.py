"""Rows that stay in their file: the same models and scores as of rows in memory, without copies."""

import json
import os
import subprocess
import sys
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pairs import quick_and_slow
from sklearn import config_context
from sklearn.datasets import load_digits, load_iris
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NormalPrior, VampPrior
from skevae.estimators.rows import MappedRows, initial_rows, rows_to_train
from skevae.estimators.standardizer import Standardizer
from skevae.utils.memory import by_row, has_holes, is_mapped, n_present, pieces, stays_in_file

X_IRIS = load_iris().data
CPU = torch.device("cpu")
# MiB: of which 150 rows of iris in float32 are more.
LITTLE = 0.001


@pytest.fixture
def mapped(tmp_path):
    """Function that writes an array to a file and maps that into memory."""
    numbers = iter(range(1000))

    def write(X, mode="r"):
        path = tmp_path / f"{next(numbers)}.npy"
        np.save(path, X)
        return np.load(path, mmap_mode=mode)

    return write


@pytest.fixture
def little_memory():
    with config_context(working_memory=LITTLE):
        yield


def vae(**params):
    defaults = {"n_components": 2, "hidden_layer_sizes": 8, "n_draws": 2, "n_score_draws": 20}
    defaults |= {"prior": GaussianBernoulliRBMPrior(4), "max_iter": 3, "batch_size": 64}
    return EnergyVAE(**{**defaults, "random_state": 0, **params})


def rbm(**params):
    return GaussianBernoulliRBMPrior(4, **{"max_iter": 3, "random_state": 0, **params})


# --- which rows stay ------------------------------------------------------------------------------


def test_views_of_a_file_are_told_from_copies(mapped):
    X = mapped(X_IRIS)
    views = [X, X[3:], X[::2, 1:], X.T, np.asarray(X), np.asarray(X)[::-1]]
    copies = [X_IRIS, X[[1, 2]], X[X[:, 0] > 5], X + 1, np.array(X), X.astype(np.float32), "X"]
    assert [is_mapped(view) for view in views] == [True] * len(views)
    assert [is_mapped(copy) for copy in copies] == [False] * len(copies)


def test_only_rows_that_memory_does_not_hold_stay_in_their_file(mapped):
    X = mapped(X_IRIS)
    assert not stays_in_file(X)
    with config_context(working_memory=LITTLE):
        assert stays_in_file(X) and not stays_in_file(X_IRIS) and not stays_in_file(X[:60])


def test_a_small_map_is_fitted_as_an_array(mapped):
    for make in (vae, rbm):
        scores = (make().fit(X).score_samples(X_IRIS) for X in (mapped(X_IRIS), X_IRIS))
        assert_array_equal(*scores)


# --- fits -----------------------------------------------------------------------------------------


OPTIONS = {
    "vae": (vae, {}),
    "all rows": (vae, {"early_stopping": False}),
    "bernoulli": (vae, {"likelihood": "bernoulli"}),
    "rbm": (rbm, {}),
    "ex post": (vae, {"ex_post": GaussianMixture(2)}),
    "vamp": (vae, {"prior": VampPrior(4)}),
}


@quick_and_slow(
    "dtype, name, weighted",
    [(np.float64, "vae", True), (np.float32, "bernoulli", False), (np.float32, "rbm", True)],
    product([np.float64, np.float32], OPTIONS, [False, True]),
)
def test_without_standardisation_a_fit_is_the_same_to_the_bit(
    name, weighted, dtype, mapped, little_memory
):
    make, options = OPTIONS[name]
    X = (X_IRIS / 8).astype(dtype)
    weights = np.random.RandomState(0).uniform(0.5, 2, len(X)) if weighted else None
    in_memory = make(standardize=False, **options).fit(X, sample_weight=weights)
    in_file = make(standardize=False, **options).fit(mapped(X), sample_weight=weights)
    for name, values in in_memory.history_.items():
        assert_array_equal(in_file.history_[name], values, err_msg=name)
    # With so little memory, rows are scored one by one.
    scores = [model.score_samples(X[::5]) for model in (in_file, in_memory)]
    if options.get("ex_post") is None:
        assert_array_equal(*scores)
    assert_allclose(*scores, rtol=1e-5)


@quick_and_slow(
    "layout, holes",
    [(np.asarray, True)],
    product([np.asarray, np.asfortranarray], [False, True]),
)
def test_standardised_in_passes_it_is_the_same_to_rounding(layout, holes, mapped, little_memory):
    X = layout(1e3 + 10 * X_IRIS)
    if holes:
        X[np.random.RandomState(0).uniform(size=X.shape) < 0.1] = np.nan
    in_memory, in_file = vae().fit(X), vae().fit(mapped(X))
    for name, values in in_memory.history_.items():
        assert_allclose(in_file.history_[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    few = X[:80]
    assert stays_in_file(mapped(few))
    assert_allclose(in_file.score_samples(mapped(few)), in_memory.score_samples(few), atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"bounds": {0: (0, 10), 1: (0, None)}},
        {"integer_features": [2]},
        {"categorical_features": [3], "bounds": {1: (None, 9)}, "integer_features": [2]},
    ],
)
def test_kinds_of_columns_of_a_file_are_those_of_an_array(options, mapped, little_memory):
    X = np.c_[X_IRIS[:, :2], X_IRIS[:, 2:].round()]
    in_memory, in_file = vae(**options).fit(X), vae(**options).fit(mapped(X))
    for name, values in in_memory.history_.items():
        assert_allclose(in_file.history_[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    scores = in_file.score_samples(mapped(X[:10]))
    assert_allclose(scores, in_file.score_samples(X[:10]), rtol=1e-9)
    X[100, 1] = 10.0
    if 1 in options.get("bounds", {}):
        with pytest.raises(ValueError, match=r"X\[100\] has the value 10 in column 1"):
            vae(bounds={1: (0, 10)}).fit(mapped(X))


@pytest.mark.slow
def test_passes_and_checkpoints(mapped, little_memory, tmp_path):
    X = mapped(X_IRIS)
    model = vae(standardize=False).partial_fit(X).partial_fit(X)
    expected = vae(standardize=False).partial_fit(X_IRIS).partial_fit(X_IRIS)
    # With so little memory, rows are scored one by one.
    assert_array_equal(model.score_samples(X[::10]), expected.score_samples(X_IRIS[::10]))
    kept = vae(checkpoint_dir=tmp_path / "runs", max_time=1e-9, early_stopping=False)
    with warnings.catch_warnings(action="ignore"):
        assert [kept.fit(X).n_iter_ for _ in range(3)] == [1, 2, 3]
    whole = vae(early_stopping=False).fit(X)
    assert_array_equal(kept.score_samples(X[::10]), whole.score_samples(X[::10]))


def test_the_file_is_left_as_it_is(mapped, little_memory):
    X = mapped(X_IRIS, mode="r+")
    vae().fit(X).score_samples(X)
    assert_array_equal(X, X_IRIS)


@pytest.mark.parametrize("dtype, value", [(np.float64, 1e200), (np.float64, np.inf)])
def test_values_beyond_numbers_are_refused_as_in_memory(dtype, value, mapped, little_memory):
    X = X_IRIS.astype(dtype)
    X[70, 2] = value
    messages = []
    for rows in (X, mapped(X)):
        for options in ({}, {"standardize": False}):
            with pytest.raises(ValueError, match="X|infinity") as caught:
                vae(**options).fit(rows)
            messages.append(str(caught.value))
    assert messages[:2] == messages[2:]


# --- passes over rows -----------------------------------------------------------------------------


def table(n=5000, holes=0.2):
    rng = np.random.RandomState(0)
    X = rng.normal(3, [1, 10, 1e-3, 1e4, 0], size=(n, 5))
    X[rng.uniform(size=X.shape) < holes] = np.nan
    X[:, 4] = 7.0
    return X


@pytest.mark.parametrize("enabled", [True, False, np.arange(5) < 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_standardisation_in_one_pass(enabled, weighted, mapped):
    X = table()
    weights = np.random.RandomState(1).uniform(size=len(X)) if weighted else None
    expected = Standardizer(X, enabled, sample_weight=weights)
    with config_context(working_memory=0.02):
        found = Standardizer(mapped(X), enabled, sample_weight=weights)
    for name in ("centre", "spread", "fill", "log_spread"):
        assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-11, err_msg=name)
    if enabled is True and not weighted:
        assert_array_equal(expected.spread, StandardScaler().fit(X).scale_)


def test_pieces_are_all_rows_in_order_and_of_the_size_granted(little_memory):
    X = table()
    assert_array_equal(np.concatenate(list(pieces(X))), X)
    assert max(piece.nbytes for piece in pieces(X)) <= LITTLE * 2**20


@pytest.mark.parametrize("holes", [0, 0.2])
def test_passes_find_what_is_found_at_once(holes, little_memory):
    X = table(holes=holes)
    missing = np.isnan(X)
    assert has_holes(X) == missing.any()
    assert_array_equal(n_present(X), (~missing).sum(0))
    assert_array_equal(by_row(lambda part: np.isnan(part).any(1), X), missing.any(1))
    standardizer = Standardizer(X, True)
    jacobians = -np.where(missing, 0.0, standardizer.log_spread).sum(1)
    assert_allclose(standardizer.row_log_jacobians(X), jacobians, rtol=1e-12)


def test_values_out_of_reach_are_found_in_passes(little_memory):
    X = table()
    X[[100, 4000], [1, 3]] = 1e160, -1e300
    X = np.nan_to_num(X)
    standardizer = Standardizer(table(), True)
    kept, beyond = standardizer.in_reach(X)
    assert kept is X and np.argwhere(beyond).tolist() == [[100, 1], [4000, 3]]
    assert standardizer.in_reach(table())[1].strides == (0, 0)
    far = table().astype(np.float32)
    far[3, 2] = 1e20
    assert standardizer.in_reach(far)[0].dtype == np.float64


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_a_file_are_those_of_a_tensor(weighted, mapped, little_memory):
    X = table(400)
    standardizer = Standardizer(X, True)
    expected = rows_to_train(X, standardizer, CPU)
    rows = rows_to_train(mapped(X), standardizer, CPU)
    assert isinstance(expected, torch.Tensor) and isinstance(rows, MappedRows)
    if weighted:
        weights = np.arange(400.0)
        rows = rows.weighted(weights)
        expected = torch.cat([expected, torch.from_numpy(weights).float()[:, None]], 1)

    def assert_same(found, wanted):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)

    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    assert tuple(rows.shape) == tuple(expected.shape) and len(rows) == 400
    assert_same(rows.tensor(), expected)
    assert_same(rows[order][30:90].tensor(), expected[order][30:90])
    assert_same(torch.cat(list(rows.split(70))), expected)
    for found, wanted in zip(rows.minibatches(order, 64), order.split(64), strict=True):
        assert_same(found, expected[wanted])
    assert_same(initial_rows(rows), expected)


def test_initial_rows_are_from_all_over_the_file(mapped, little_memory, monkeypatch):
    monkeypatch.setattr("skevae.estimators.rows.INITIAL_ROWS", (7, 7))
    X = np.arange(1000.0)[:, None]
    rows = rows_to_train(mapped(X), Standardizer(X, False), CPU)
    assert initial_rows(rows)[:, 0].tolist() == [0, 142, 285, 428, 571, 714, 857]


# --- memory ---------------------------------------------------------------------------------------

MEMORY = """
import json, sys, threading, time
import numpy as np, torch
from sklearn import config_context
from skevae import EnergyVAE

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

def peak(call):
    seen, running = [anonymous()], True
    def watch():
        while running:
            seen.append(anonymous())
            time.sleep(0.002)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        call()
    finally:
        running = False
        thread.join()
    return max(seen) - seen[0]

torch.set_num_threads(1)
X = np.load(sys.argv[1], mmap_mode="r")
kwargs = {"n_components": 2, "hidden_layer_sizes": 8, "prior": "normal", "objective": "elbo"}
kwargs |= {"n_draws": 1, "max_iter": 1, "batch_size": 1024, "n_score_draws": 2, "random_state": 0}
kwargs |= eval(sys.argv[2])
model = EnergyVAE(**kwargs, validation_fraction=0.01)
model.fit(np.array(X[:3000])).score_samples(X[:10])
with config_context(working_memory=16):
    calls = {
        "fit": lambda: model.fit(X),
        "score_samples": lambda: model.score_samples(X),
        "transform": lambda: model.transform(X),
    }
    print(json.dumps({name: peak(call) for name, call in calls.items()}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "dtype, options",
    [
        ("float32", {}),
        ("float64", {}),
        ("float32", {"bounds": {1: (-100, None)}, "integer_features": [0]}),
        ("float32", {"categorical_features": [0]}),
    ],
)
def test_no_call_copies_the_file(dtype, options, tmp_path):
    n_rows = 40 * 2**20 // np.dtype(dtype).itemsize // 100 * 4  # 160 MiB
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", dtype, (n_rows, 100))
    for part in np.array_split(X, 16):
        part[:] = np.random.RandomState(0).normal(size=part.shape)
        part[:, 0] = part[:, 0].round()
    X.flush()
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "X.npy"), repr(options)]
    # Freed memory goes back at once, or what glibc keeps of it would be counted.
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300, env=settings
    )
    # Indices of rows, scores and temporaries: half of the file at most. One copy is more than that.
    for name, mebibytes in json.loads(run.stdout).items():
        assert mebibytes < 80, name


def test_priors_and_digits_from_files(mapped):
    X = load_digits().data.astype(np.float32)
    with config_context(working_memory=0.1):
        model = vae(prior=NormalPrior(), max_iter=5).fit(mapped(X))
        score = model.score(mapped(X[:100]))
    expected = vae(prior=NormalPrior(), max_iter=5).fit(X).score(X[:100])
    assert score == pytest.approx(expected, abs=1.0)
