"""The fit benchmark: its splits leak nothing, its peers are densities, its report is truthful."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "benchmarks"
sys.path.insert(0, str(FOLDER))

import density_sets  # noqa: E402
import fit  # noqa: E402
from density_peers import PredictiveBayesianMixture, PythaeVAE, ZukoFlow, minimize  # noqa: E402
from density_sets import Table, find_sets, likelihood_split, outlier_split  # noqa: E402


def integral(model, n):
    """Of exp(score_samples) over the whole plane: the midpoint rule on x = tan(u)."""
    axis = np.tan(np.pi * ((np.arange(n) + 0.5) / n - 0.5))
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    jacobian = np.prod(1 + grid**2, axis=1)
    return np.exp(model.score_samples(grid)) @ jacobian * (np.pi / n) ** 2


def labelled(seed):
    """Rows whose first column is far off for outliers, and whose last column is constant."""
    rng = np.random.default_rng(5)
    outlier = np.arange(300) % 10 == 0
    X = rng.normal([50.0, -3.0, 7.0], [10.0, 0.1, 0.0], size=(300, 3))
    X[outlier, 0] += 500
    return Table(X, outlier)


def blobs(n=200):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(-1, 0.5, (n // 2, 2)), rng.normal(1, 0.3, (n // 2, 2))])


# --- splits ---------------------------------------------------------------------------------------


def test_likelihood_split_standardises_by_training_rows_and_adds_the_noise():
    split = likelihood_split(labelled, seed=0)
    assert split.train.shape == (240, 3) and split.test.shape == (60, 3)
    # Unit variance, and noise of variance 0.05^2 on top; the constant column is noise alone.
    assert_allclose(split.train.mean(axis=0), 0, atol=4 * 0.05 / np.sqrt(240))
    assert_allclose(split.train[:, :2].var(axis=0), 1 + 0.05**2, rtol=0.05)
    assert_allclose(split.train[:, 2].std(), 0.05, rtol=4 / np.sqrt(2 * 240))


def test_test_rows_do_not_touch_training_rows():
    def corrupted(seed):
        table = labelled(seed)
        order = np.random.default_rng(seed).permutation(300)
        table.X[order[240:]] *= 1e6
        return table

    split, other = likelihood_split(labelled, seed=3), likelihood_split(corrupted, seed=3)
    assert_array_equal(split.train, other.train)
    assert np.abs(other.test).max() < density_sets.CLIP + 6 * density_sets.NOISE


def test_split_depends_on_the_seed_alone():
    first, again, other = (likelihood_split(labelled, seed).train for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_outlier_split_trains_on_inliers_only():
    split = outlier_split(labelled, seed=0)
    assert len(split.train) == 216 and split.outlier.sum() == 30 and len(split.test) == 84
    # Outliers are 50 standard deviations off, beyond the clip, and inliers are not.
    assert np.abs(split.train).max() < 5
    assert_array_equal(split.test[:, 0] > 9, split.outlier)
    assert outlier_split(lambda seed: Table(labelled(seed).X), seed=0) is None


def test_log_jacobian_brings_scores_to_the_scale_of_the_exact_density():
    normal = stats.norm([2.0, -30.0], [0.1, 40.0])

    def load(seed):
        X = normal.rvs(size=(500, 2), random_state=seed)
        return Table(X, log_density=lambda X: normal.logpdf(X).sum(axis=1))

    split = likelihood_split(load, seed=0)
    scores = stats.norm.logpdf(split.test).sum(axis=1) + split.log_jacobian
    # A normal fitted to 400 rows loses about 4 parameters / 800 nats a row.
    assert_allclose(scores.mean(), split.truth.mean(), atol=0.03)


def test_bundled_and_toy_sets_are_there_and_folders_are_checked(tmp_path):
    sets = find_sets()
    assert {"sklearn:iris", "sklearn:digits", "toy:checkerboard"} <= set(sets)
    split = likelihood_split(sets["toy:checkerboard"], seed=0)
    assert split.train.shape == (20_000, 2)
    assert_allclose(split.truth, -np.log(32))
    with pytest.raises(FileNotFoundError, match="no npz files"):
        find_sets(tmp_path)
    np.savez(tmp_path / "mine.npz", X=np.eye(10), y=np.arange(10) == 9)
    assert find_sets(tmp_path)["tabular:mine"](0).outlier.sum() == 1


# --- peers ----------------------------------------------------------------------------------------


def test_predictive_mixture_is_a_density_and_the_original_score_is_not():
    mixture = PredictiveBayesianMixture(n_components=5, random_state=0).fit(blobs(40))
    assert_allclose(integral(mixture, 400), 1, atol=0.005)
    assert integral(super(PredictiveBayesianMixture, mixture), 400) < 0.95


@pytest.mark.parametrize("flow", ["NSF", "MAF"])
def test_flow_is_a_density(flow, global_rng_untouched):
    pytest.importorskip("zuko")
    model = ZukoFlow(flow, max_epochs=5).fit(blobs())
    assert_allclose(integral(model, 151), 1, atol=0.01)


@pytest.mark.parametrize("model", ["VAE", "IWAE", "VAMP"])
def test_pythae_model_is_a_density(model, global_rng_untouched):
    pytest.importorskip("pythae")
    vae = PythaeVAE(model, latent_dim=2, scales=(0.5,), max_epochs=20).fit(blobs())
    assert_allclose(integral(vae, 51), 1, atol=0.02)


def test_pythae_get_nll_has_the_sign_of_a_log_likelihood():
    pytest.importorskip("pythae")
    vae = PythaeVAE("VAE", latent_dim=2, scales=(1.0,), max_epochs=20).fit(blobs())
    X = blobs(20)
    with torch.no_grad():
        theirs = vae.module_.get_nll(torch.as_tensor(X, dtype=torch.float32), n_samples=1000)
    assert_allclose(vae.score_samples(X).mean(), theirs, atol=0.05)


def test_training_keeps_the_best_state_and_stops():
    """Validation rows pull the other way, so that the first epochs are the best."""
    offset = torch.nn.Linear(1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.zeros_(offset.bias)

        def loss(rows):
            return (rows - offset.bias).square().mean()

        train, validation = torch.ones(64, 1), -0.01 * torch.ones(8, 1)
        best, epochs = minimize(
            offset, loss, train, validation, learning_rate=0.01, patience=5, max_epochs=100
        )
    assert epochs == 6
    assert_allclose(loss(validation).item(), best)


# --- results and report ---------------------------------------------------------------------------


@pytest.fixture
def two_estimators(monkeypatch):
    """A standard normal, and one that fails until it is mended."""
    normal = SimpleNamespace(score_samples=lambda X: stats.norm.logpdf(X).sum(axis=1))
    normal.fit = lambda X: normal
    state = SimpleNamespace(broken=True, calls=[])

    def good(effort, seed, n_rows):
        state.calls.append("good")
        return normal

    def bad(effort, seed, n_rows):
        state.calls.append("bad")
        if state.broken:
            raise RuntimeError("no luck")
        return normal

    monkeypatch.setattr(fit, "ESTIMATORS", {"GaussianMixture": good, "KernelDensity": bad})
    return state


def test_an_interrupted_run_resumes_and_failures_stay_visible(two_estimators, tmp_path):
    def run(again=False):
        results = fit.Results(tmp_path / "results.jsonl")
        arguments = {"mine": labelled}, list(fit.ESTIMATORS), ["likelihood"], [0, 1], fit.QUICK
        fit.run_all(results, *arguments, again)
        return results

    results = run()
    summary = fit.Summary("likelihood", results, ["*"], list(fit.ESTIMATORS))
    assert summary.table()[1][0][-1] == "failed"
    assert "KernelDensity on mine: RuntimeError: no luck" in summary.failures()
    assert_array_equal(summary.values[0, 1], -np.inf)

    two_estimators.broken = False
    two_estimators.calls.clear()
    summary = fit.Summary("likelihood", run(), ["*"], list(fit.ESTIMATORS))
    assert two_estimators.calls == ["bad", "bad"]
    assert summary.errors == {}
    expected = [
        stats.norm.logpdf(likelihood_split(labelled, seed, fit.QUICK.max_rows).test).sum(axis=1)
        for seed in (0, 1)
    ]
    assert_allclose(summary.values, np.mean(expected))
    errors = np.std(expected, axis=1, ddof=1) / np.sqrt(len(expected[0]))
    assert_allclose(
        summary.standard_error("mine", "KernelDensity"), np.hypot(*errors) / 2, rtol=1e-6
    )

    two_estimators.calls.clear()
    run(again=True)
    assert len(two_estimators.calls) == 4


def test_scores_that_are_not_finite_are_failures(tmp_path):
    split = likelihood_split(labelled, seed=0)
    model = SimpleNamespace(score_samples=lambda X: np.full(len(X), -np.inf))
    with pytest.raises(ValueError, match="60 test rows have no finite log-density"):
        fit.measure_likelihood(model, split)


@pytest.mark.parametrize("sign, auc", [(1, 0.0), (-1, 1.0)])
def test_outliers_have_low_scores(sign, auc):
    split = outlier_split(labelled, seed=0)
    model = SimpleNamespace(score_samples=lambda X: sign * X[:, 0])
    assert fit.measure_outliers(model, split) == {"value": auc}


def report_of(tmp_path, values):
    results = fit.Results(tmp_path / "results.jsonl")
    for (set_name, name), scores in values.items():
        row = {"task": "likelihood", "set": set_name, "estimator": name, "seed": 0}
        error = np.std(scores, ddof=1) / np.sqrt(len(scores))
        row |= {"value": np.mean(scores), "standard_error": error, "scores": scores}
        row["fit_seconds"] = {"a": 1.0, "b": 4.0, "c": 90.0}[set_name]
        results.append(row)
    names = ["EnergyVAE", "GaussianMixture", "KernelDensity"]
    return fit.Summary("likelihood", fit.Results(tmp_path / "results.jsonl"), ["*"], names)


def test_table_marks_the_best_two_and_ranks_complete_sets(tmp_path):
    summary = report_of(
        tmp_path,
        {
            ("a", "EnergyVAE"): [1.0, 3.0],
            ("a", "GaussianMixture"): [0.0, 2.0],
            ("a", "KernelDensity"): [-1.0, 0.0],
            ("b", "EnergyVAE"): [1.0, 1.0],
            ("b", "GaussianMixture"): [2.0, 2.0],
            ("b", "KernelDensity"): [0.0, 0.0],
            ("c", "KernelDensity"): [9.0, 9.0],
        },
    )
    header, lines = summary.table()
    assert header == ["data set", "EnergyVAE", "GaussianMixture", "KernelDensity"]
    assert lines == [
        ["a", "**2.00** (1.00)", "*1.00* (1.00)", "-0.50 (0.50)"],
        ["b", "*1.00* (0.00)", "**2.00** (0.00)", "0.00 (0.00)"],
        ["c", "", "", "**9.00** (0.00)"],
        ["mean (of 2)", "1.50", "1.50", "-0.25"],
        ["mean rank (of 2)", "1.50", "1.50", "3.00"],
        ["first (of 2)", "1", "1", "0"],
        ["median seconds to fit", "2.5", "2.5", "2.5"],
    ]


def test_error_of_a_difference_is_paired(tmp_path):
    rows = [0.0, 10.0, -10.0, 30.0]
    summary = report_of(
        tmp_path,
        {("a", "EnergyVAE"): [row + 1 for row in rows], ("a", "GaussianMixture"): rows},
    )
    assert summary.standard_error("a", "EnergyVAE") > 5
    assert_allclose(summary.difference_error("a", "EnergyVAE", "GaussianMixture"), 0, atol=1e-12)


@pytest.mark.slow
def test_quick_run_measures_everything_and_draws_it(tmp_path):
    command = [sys.executable, str(FOLDER / "fit.py"), "--quick", "--threads", "1"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path), "--docs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows if "error" in row] == []
    measured = {(row["task"], row["estimator"]) for row in rows}
    assert {("likelihood", name) for name in fit.OURS} <= measured
    assert {("outliers", name) for name in (*fit.OURS, *fit.NO_DENSITY)} <= measured
    assert "mean rank" in (tmp_path / "table.md").read_text()
    assert {f"fit-{task}.{kind}" for task in fit.TASKS for kind in ("png", "rst")} <= {
        path.name for path in tmp_path.iterdir()
    }
    left_out = set(fit.ESTIMATORS) - {row["estimator"] for row in rows}
    assert all(name in done.stdout for name in left_out)


SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_every_script_can_be_imported(path, monkeypatch):
    """Also those that take too long to be run here."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)


@pytest.mark.slow
def test_speed_runs(tmp_path):
    command = [sys.executable, FOLDER / "speed.py", "--quick"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "sampling" in run.stdout and "scoring" in run.stdout


@pytest.mark.slow
def test_images_are_trained_in_three_parts_and_stored(tmp_path):
    command = [sys.executable, FOLDER / "images.py", "--quick", "--save", "."]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("iwae-dreg") == 4
    assert {path.name for path in tmp_path.iterdir()} == {"part-1", "part-2", "part-3"}
