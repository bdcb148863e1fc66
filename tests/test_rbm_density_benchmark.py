"""The benchmark scripts run, count what they should, and resume."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "benchmarks" / "rbm_density.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("rbm_density", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path):
    source = np.random.default_rng(0)
    X = source.normal(size=(60, 3))
    X[:10] += 1000
    np.savez(tmp_path / "small.npz", X=X, y=np.arange(60) < 10)
    return tmp_path


def test_outliers_are_left_out(benchmark, folder):
    ((name, X),) = benchmark.read_folder(folder)
    assert name == "small" and X.shape == (50, 3) and X.max() < 100


def test_empty_folder_is_refused(benchmark, tmp_path):
    with pytest.raises(SystemExit, match="no .npz"):
        list(benchmark.read_folder(tmp_path))


def test_rows_are_standardised_by_the_training_part_and_clipped(benchmark):
    source = np.random.default_rng(1)
    X = 5 + 3 * source.normal(size=(4000, 2))
    X[0] = 1e9, 5  # one row far off: clipped, and its column's spread is its own
    train, test = benchmark.prepare(X, seed=0, max_rows=3000)
    assert train.shape == (2400, 2) and test.shape == (600, 2)
    assert np.abs(np.vstack([train, test])).max() < benchmark.REACH + 6 * benchmark.NOISE
    # Only the noise is left to chance: its mean, and its covariance with the rows.
    error = benchmark.NOISE / np.sqrt(2400)
    assert abs(train[:, 1].mean()) < 4 * error
    assert train[:, 1].var() == pytest.approx(1 + benchmark.NOISE**2, abs=4 * 2 * error)


def test_an_interrupted_run_resumes(benchmark, folder, capsys):
    fitted, output = [], folder / "out" / "results.json"

    def mixture(seed):
        fitted.append(seed)
        return GaussianMixture(random_state=seed)

    def interrupted(seed):
        raise KeyboardInterrupt

    sets = list(benchmark.read_folder(folder))
    with pytest.raises(KeyboardInterrupt):
        benchmark.run(sets, output, models={"one": mixture, "two": interrupted})
    saved = json.loads(output.read_text())
    results = benchmark.run(sets, output, models={"one": mixture, "two": mixture})
    (key,) = results
    assert fitted == [0, 0]  # "one" once, "two" once
    assert results[key]["one"] == saved[key]["one"]
    train, test = benchmark.prepare(sets[0][1], 0, 8000)
    expected = GaussianMixture(random_state=0).fit(train).score(test)
    assert results[key]["two"]["mean"] == pytest.approx(expected, rel=1e-12)
    assert "small" in capsys.readouterr().out


def test_every_model_gives_a_finite_log_likelihood(benchmark, folder):
    ((_, X),) = benchmark.read_folder(folder)
    train, test = benchmark.prepare(X, 0, 8000)
    searched = {k: v for k, v in benchmark.MODELS.items() if k != "rbm, searched"}
    for make in searched.values():
        result = benchmark.evaluate(make(0), train, test)
        assert np.isfinite(result["mean"]) and result["error"] > 0
        json.dumps(result)
