"""Processes that are killed, disks that are full, folders that vanish, memory that runs out.

Children are forked, which costs a moment, where a new interpreter would take seconds to import.
"""

import errno
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from score_models import quick, rows
from sklearn.base import clone
from small_priors import small_prior

from skevae import EnergyVAE, load_model, save_model
from skevae.training import checkpoint
from skevae.utils.archive import ArchiveError

pytestmark = pytest.mark.slow

X_FAULTS = rows(60, 3)

forks = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.get_num_threads() > 1,
    reason="children are forked, which takes a parent with one thread",
)
short_and_long = pytest.mark.parametrize(
    "long", [False, pytest.param(True, marks=pytest.mark.torture)]
)


def make(**params):
    options = {"prior": small_prior("grbm"), "max_iter": 12, "n_score_draws": 20, "batch_size": 16}
    return quick(**{**options, "early_stopping": True, **params})


def start(work):
    """Fork a child that works and then exits with 0, or 1 after an error."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def end(pid, seconds=60):
    """Exit code of a child, minus the signal that killed it; one that takes too long is killed."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "took too long"


def kill_after(pid, seconds):
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return end(pid)


def seeds(long, request, n_short):
    return request.getfixturevalue("rounds") if long else range(n_short)


@pytest.fixture
def save_each_epoch(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0.0)


def assert_same(one, other):
    np.testing.assert_array_equal(one.score_samples(X_FAULTS), other.score_samples(X_FAULTS))
    assert one.history_.keys() == other.history_.keys()
    for name, values in one.history_.items():
        np.testing.assert_array_equal(values, other.history_[name])


# --- killed --------------------------------------------------------------------------------------


@forks
@short_and_long
def test_a_killed_fit_goes_on_to_the_same_end(long, request, tmp_path, save_each_epoch):
    begin = time.monotonic()
    whole = make().fit(X_FAULTS)
    duration = time.monotonic() - begin
    for seed in seeds(long, request, 1):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        model = make(checkpoint_dir=folder)
        for _ in range(rng.randint(1, 3)):
            kill_after(
                start(lambda m=model: clone(m).fit(X_FAULTS)), rng.uniform(0, 1.3 * duration)
            )
        assert_same(clone(model).fit(X_FAULTS), whole)
        left = [path for path in folder.iterdir() if path.suffix != ".skevae"]
        for path in left:  # as if an hour had passed
            os.utime(path, (0, 0))
        assert_same(clone(model).fit(X_FAULTS), whole)
        assert [path.suffix for path in folder.iterdir()] == [".skevae"]


@forks
@short_and_long
def test_a_killed_save_leaves_the_old_file_or_the_new_one(long, request, tmp_path):
    models = [make(max_iter=1, random_state=seed).fit(X_FAULTS) for seed in (1, 2)]
    truth = [model.score(X_FAULTS) for model in models]
    path = tmp_path / "model"

    def save_for_ever():
        while True:
            for model in models:
                save_model(model, path)

    save_model(models[0], path)
    for seed in seeds(long, request, 4):
        assert kill_after(start(save_for_ever), random.Random(seed).uniform(0, 0.05)) == -9
        assert load_model(path).score(X_FAULTS) in truth


@forks
@short_and_long
def test_processes_that_share_a_folder_arrive_at_the_same(long, request, tmp_path, save_each_epoch):
    whole = make().fit(X_FAULTS)
    for seed in seeds(long, request, 1):
        model = make(checkpoint_dir=tmp_path / str(seed))

        def work(model=model):
            assert_same(model.fit(X_FAULTS), whole)

        assert [end(pid) for pid in [start(work) for _ in range(3)]] == [0, 0, 0]
        assert_same(model.fit(X_FAULTS), whole)
        assert len(list((tmp_path / str(seed)).iterdir())) == 1


# --- disks ---------------------------------------------------------------------------------------


class Failing:
    """A method of Path that fails at its n-th call; a failing write has written a part."""

    def __init__(self, name, call, code):
        self.original, self.call, self.code = getattr(Path, name), call, code

    def __get__(self, path, kind=None):
        def method(*args, **kwargs):
            self.call -= 1
            if self.call:
                return self.original(path, *args, **kwargs)
            if args and isinstance(args[0], bytes):
                self.original(path, args[0][: len(args[0]) // 2])
            raise OSError(self.code, os.strerror(self.code), str(path))

        return method


CODES = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE]


@short_and_long
def test_a_failing_disk_never_spoils_a_fit(long, tmp_path, save_each_epoch, monkeypatch):
    whole = make(max_iter=3).fit(X_FAULTS)
    for number, code in enumerate(CODES if long else CODES[:1]):
        for name in ("write_bytes", "replace", "unlink", "mkdir"):
            for call in range(1, 6 if long else 3):
                folder = tmp_path / f"{number}{name}{call}"
                model = make(max_iter=3, checkpoint_dir=folder)
                with monkeypatch.context() as patch, warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    patch.setattr(Path, name, Failing(name, call, code))
                    try:
                        assert_same(model.fit(X_FAULTS), whole)
                    except OSError as error:
                        # Only before anything was trained.
                        assert call == 1 and "checkpoint_dir" in str(error)
                        assert not hasattr(model, "module_")
                assert_same(model.fit(X_FAULTS), whole)


def test_a_full_disk_leaves_the_old_model_file(tmp_path, monkeypatch):
    old, new = (make(max_iter=1, random_state=seed).fit(X_FAULTS) for seed in (1, 2))
    path = save_model(old, tmp_path / "model")
    for name in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, Failing(name, 1, errno.ENOSPC))
            with pytest.raises(OSError, match="No space left"):
                save_model(new, path)
        assert load_model(path).score(X_FAULTS) == old.score(X_FAULTS)
        assert [file.name for file in tmp_path.iterdir()] == ["model"]


class Vandal:
    """Stands for `print`, and does something to the folder of checkpoints after some epochs."""

    def __init__(self, *deeds):
        self.deeds = list(deeds)

    def __call__(self, line):
        if self.deeds:
            self.deeds.pop(0)()


def test_a_folder_that_vanishes_costs_a_warning(tmp_path, save_each_epoch, monkeypatch):
    folder = tmp_path / "checkpoints"
    whole = make(max_iter=6).fit(X_FAULTS)
    deeds = [lambda: None, lambda: shutil.rmtree(folder), lambda: folder.write_text("a file now")]
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", Vandal(*deeds))
        with pytest.warns(RuntimeWarning, match="could not be saved"):
            model = make(max_iter=6, checkpoint_dir=folder, verbose=1).fit(X_FAULTS)
    assert_same(model, whole)
    assert folder.read_text() == "a file now"


def test_what_stands_in_the_place_of_a_file_is_named(tmp_path):
    model = make(max_iter=1, checkpoint_dir=tmp_path).fit(X_FAULTS)
    (path,) = tmp_path.iterdir()
    for stand_in in (path.mkdir, lambda: os.mkfifo(path), path.touch):
        path.rmdir() if path.is_dir() else path.unlink()
        stand_in()
        with pytest.raises((OSError, ArchiveError), match=path.name):
            clone(model).fit(X_FAULTS)
        with pytest.raises((OSError, ArchiveError), match=path.name):
            load_model(path)


# --- interrupted, out of memory ------------------------------------------------------------------


@pytest.fixture
def alarm():
    """Call that raises KeyboardInterrupt after some seconds, as Ctrl-C does."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
@short_and_long
def test_ctrl_c_at_any_moment(long, request, alarm, tmp_path, save_each_epoch):
    whole = make().fit(X_FAULTS)
    for seed in seeds(long, request, 4):
        rng = random.Random(seed)
        folder = tmp_path / str(seed) if rng.random() < 0.5 else None
        model = make(checkpoint_dir=folder)
        was_fitted = rng.random() < 0.5
        if was_fitted:
            model.set_params(max_iter=1).fit(X_FAULTS[:30]).set_params(max_iter=12)
        try:
            alarm(rng.uniform(0.0005, 0.1))
            model.fit(X_FAULTS)
            alarm(0)
        except KeyboardInterrupt as error:
            message = str(error)
            assert was_fitted or hasattr(model, "module_") == message.startswith("Training was")
        if hasattr(model, "module_"):
            assert np.isfinite(model.score_samples(X_FAULTS)).all()
            assert np.isfinite(model.sample(3)).all()
            # Without an entry if there has been no epoch.
            assert len(model.history_.get("objective", ())) == model.n_iter_
            model.partial_fit(X_FAULTS)
        assert_same(model.fit(X_FAULTS), whole)


# torch has many words for it, such as "could not create a primitive".
OUT_OF_MEMORY = (MemoryError, RuntimeError)


@forks
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")
@short_and_long
def test_too_little_memory_leaves_the_old_model_or_none(long, request):
    import resource

    X = rows(20_000, 6).astype(np.float32)
    page = os.sysconf("SC_PAGE_SIZE")

    def work(room, fitted, params):
        model = EnergyVAE(2, max_iter=1, random_state=0, n_score_draws=5, **params)
        if fitted:
            before = model.fit(X[:50]).score(X[:50])
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * page
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
        try:
            model.fit(X)
        except OUT_OF_MEMORY:
            failed = True
        else:
            failed = False
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        if failed:
            assert hasattr(model, "module_") == fitted
            assert not fitted or model.score(X[:50]) == before
        assert np.isfinite(model.fit(X[:50]).score(X[:50]))
        os._exit(10 if failed else 0)

    codes = []
    for seed in seeds(long, request, 2):
        rng = random.Random(seed)
        params = {"hidden_layer_sizes": (rng.choice([8, 64]),), "batch_size": 10_000}
        params["prior"] = "normal"
        room = rng.choice([0, 2**18, 2**20, 2**22, 2**23, 2**24, 2**25, 2**27])
        case = (room, rng.random() < 0.5, params)
        codes.append(end(start(lambda case=case: work(*case))))
    assert set(codes) <= {0, 10}, codes
