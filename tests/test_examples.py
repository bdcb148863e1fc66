"""The scripts of examples/ run from top to bottom, and those of the paper resume."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

PAPER = Path(__file__).resolve().parents[1] / "examples" / "paper"

matplotlib = pytest.importorskip("matplotlib", reason="the figures need matplotlib")


def run(script, *arguments):
    """Run a script in a process of its own, with one thread, and return what it printed."""
    command = [sys.executable, str(PAPER / script), "--threads", "1", *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def report():
    sys.path.insert(0, str(PAPER))
    try:
        import report
    finally:
        sys.path.remove(str(PAPER))
    return report


# --- what they share ------------------------------------------------------------------------------


def test_results_survive_and_the_last_of_a_key_counts(report, tmp_path):
    file = tmp_path / "folder" / "results.jsonl"
    results = report.Results(file, ["set", "seed"])
    assert results.get(set="a", seed=0) is None
    results.append({"set": "a", "seed": 0, "value": 1.0})
    results.append({"set": "a", "seed": 1, "value": 2.0})
    results.append({"set": "a", "seed": 0, "value": 3.0})
    again = report.Results(file, ["set", "seed"])
    assert again.get(set="a", seed=0)["value"] == 3.0
    assert again.get(set="a", seed=1)["value"] == 2.0
    assert again.get(set="b", seed=0) is None


def test_error_is_that_of_a_mean(report):
    cell = report.mean_and_error([1.0, 2.0, 3.0, 6.0])
    assert cell == pytest.approx({"mean": 3.0, "error": np.sqrt(14 / 3 / 4)})
    assert report.with_error(cell, decimals=2) == "3.00 ± 1.08"


def test_tables_are_written_twice(report, tmp_path):
    text = report.write_tables(
        tmp_path, "t", "All of it.", ["model", "nats"], [["a", "1"], ["", "2"]]
    )
    assert text.splitlines()[2:] == ["| model | nats |", "| :-- | --: |", "| a | 1 |", "|  | 2 |"]
    assert (tmp_path / "t.md").read_text() == text
    assert (tmp_path / "t.rst").read_text().splitlines() == [
        "All of it.",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - model",
        "     - nats",
        "   * - a",
        "     - 1",
        "   * -",
        "     - 2",
    ]


# --- table 1 --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_table1_measures_draws_and_resumes(tmp_path):
    printed = run("table1.py", "--quick", "--sets", "8gaussians", "--output", tmp_path)
    rows = rows_of(tmp_path)
    assert len(rows) == len({row["model"] for row in rows}) == 7
    table = (tmp_path / "table1.md").read_text()
    for row in rows:
        assert f"| {row['model']} |" in table
        # The gap and the score are of the same rows.
        assert row["gap"]["mean"] + row["log_likelihood"]["mean"] == pytest.approx(
            -row["entropy"], abs=0.5
        )
        low, high = row.get("log_partition", (0.0, 0.0))
        assert low == high  # exact, or the likelihood would not be what the table says
    assert table in printed
    assert (tmp_path / "table1.png").stat().st_size > 10_000

    # One line lost, as by an interruption: that model alone is measured again, to the same.
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join(lines[:2] + lines[3:]) + "\n")
    run("table1.py", "--quick", "--sets", "8gaussians", "--output", tmp_path)
    again = rows_of(tmp_path)
    assert [row["model"] for row in again[6:]] == [rows[2]["model"]]
    assert again[-1]["log_likelihood"] == rows[2]["log_likelihood"]


# --- table 2 and the figures ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(find_spec("zuko") is None, reason="the flows need zuko")
def test_table2_and_figures(tmp_path):
    printed = run("table2.py", "--quick", "--output", tmp_path)
    rows = rows_of(tmp_path)
    assert len(rows) == 12
    for row in rows:
        assert f"| {row['model']} |" in printed
        assert np.isfinite([row["nll"]["mean"], row["equation_5"]["mean"]]).all()
        assert row["nll"]["error"] > 0
        low, high = row["log_partition"]
        assert low <= high
    ecvvae, mixture = (
        next(row for row in rows if row["model"] == name)
        for name in ("ECVVAE", "ECVVAE, mixture of 10 ex post")
    )
    assert ecvvae["nll"] != mixture["nll"]

    run("figures.py", "--quick", "--output", tmp_path)
    assert len(rows_of(tmp_path)) == 12  # nothing was fitted twice
    for number in (1, 2, 3):
        assert (tmp_path / f"figure{number}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_table2_without_data_says_what_it_needs(tmp_path):
    command = [sys.executable, str(PAPER / "table2.py"), "--data", str(tmp_path / "absent.npz")]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "absent.npz" in done.stderr
