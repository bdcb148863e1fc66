"""Workers of a search that die, clocks that jump, and files that cannot grow."""

import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from children import X_FAULTS, assert_same, end, forks, make, seeds, short_and_long, start
from joblib.externals.loky.process_executor import TerminatedWorkerError
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from tally import count

from skevae import load_model, save_model

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def loky_workers():
    """Numbers of the worker processes that this one has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (OSError, IndexError):
            continue  # gone meanwhile
        if parent == os.getpid() and b"popen_loky" in command:
            found.append(int(folder.name))
    return found


def kill_a_worker(rng, over):
    """Kill one of the workers at some moment after they have come up."""
    while not (workers := loky_workers()) and not over.wait(0.02):
        pass
    if not over.wait(rng.uniform(0, 6)):
        for pid in rng.sample(workers, 1):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            count("faults: workers of a search ended by SIGKILL")


@linux
@pytest.mark.torture(share=2)
def test_a_search_whose_worker_dies_goes_on(rounds, tmp_path):
    grid = {"n_components": [1, 2], "learning_rate": [0.01, 0.02, 0.03]}
    whole = GridSearchCV(make(), grid, cv=2).fit(X_FAULTS)
    for seed in rounds:
        folder, over = tmp_path / str(seed), threading.Event()
        model = make(checkpoint_dir=folder)
        search = GridSearchCV(model, grid, cv=2, n_jobs=2)
        killer = threading.Thread(target=kill_a_worker, args=(random.Random(seed), over))
        killer.start()
        try:
            search.fit(X_FAULTS)
        except TerminatedWorkerError:
            count("faults: searches that such an end broke off")
        finally:
            over.set()
            killer.join()
        again = clone(search).fit(X_FAULTS)
        for name in ("mean_test_score", "split0_test_score"):
            np.testing.assert_array_equal(again.cv_results_[name], whole.cv_results_[name])
        assert_same(again.best_estimator_, whole.best_estimator_)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(tmp_path, save_each_epoch, monkeypatch):
    whole, rng, real = make().fit(X_FAULTS), random.Random(0), time.time
    model = make(checkpoint_dir=tmp_path, max_time=1000)
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: real() + rng.choice([-2e9, -5000, 0, 5000, 2e9]))
        for _ in range(3):
            assert_same(clone(model).fit(X_FAULTS), whole)
    assert [path.suffix for path in tmp_path.iterdir()] == [".skevae"]


@forks
@linux
@pytest.mark.slow
@short_and_long(1)
def test_files_that_cannot_grow(long, request, tmp_path, save_each_epoch):
    import resource

    whole, other = make().fit(X_FAULTS), make(random_state=1, max_iter=1).fit(X_FAULTS)

    def work(folder, limit):
        path = save_model(other, folder / "model")
        content = path.read_bytes()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            model = make(checkpoint_dir=folder / "checkpoints").fit(X_FAULTS)
        assert_same(model, whole)
        try:
            save_model(model, path)
        except OSError:
            assert path.read_bytes() == content
        else:
            assert_same(load_model(path), whole)
        assert not list(folder.rglob("*.tmp"))

    for seed in seeds(long, request, 2):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        folder.mkdir()
        limit = int(2 ** rng.uniform(0, 17))
        assert end(start(lambda folder=folder, limit=limit: work(folder, limit))) == 0
        count("faults: fits and saves under a limit of the size of files")
