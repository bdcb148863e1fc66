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
import warnings
from pathlib import Path

import numpy as np
import pytest
from children import (
    ENDS,
    X_FAULTS,
    assert_same,
    end,
    forks,
    kill_after,
    make,
    seeds,
    short_and_long,
    start,
)
from score_models import rows
from sklearn.base import clone
from tally import count

from skevae import EnergyVAE, load_model, save_model
from skevae.utils.archive import ArchiveError

pytestmark = pytest.mark.slow


# --- killed --------------------------------------------------------------------------------------


@forks
@short_and_long(4)
def test_a_killed_fit_goes_on_to_the_same_end(long, request, tmp_path, save_each_epoch):
    begin = time.monotonic()
    whole = make().fit(X_FAULTS)
    duration = time.monotonic() - begin
    for seed in seeds(long, request, 1):
        rng, folder = random.Random(seed), tmp_path / str(seed)
        model = make(checkpoint_dir=folder)
        for _ in range(rng.randint(1, 3)):
            pid = start(lambda m=model: clone(m).fit(X_FAULTS))
            kill_after(pid, rng.uniform(0, 1.3 * duration), rng.choice(ENDS))
        assert_same(clone(model).fit(X_FAULTS), whole)
        left = [path for path in folder.iterdir() if path.suffix != ".skevae"]
        for path in left:  # as if an hour had passed
            os.utime(path, (0, 0))
        assert_same(clone(model).fit(X_FAULTS), whole)
        assert [path.suffix for path in folder.iterdir()] == [".skevae"]


@forks
@short_and_long(1)
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
        how = random.Random(seed).choice(ENDS)
        assert kill_after(start(save_for_ever), random.Random(seed).uniform(0, 0.05), how) == -how
        assert load_model(path).score(X_FAULTS) in truth


@forks
@short_and_long(2)
def test_processes_that_share_a_folder_arrive_at_the_same(long, request, tmp_path, save_each_epoch):
    whole = make().fit(X_FAULTS)
    for seed in seeds(long, request, 1):
        model = make(checkpoint_dir=tmp_path / str(seed))

        def work(model=model):
            assert_same(model.fit(X_FAULTS), whole)

        pids = [start(work) for _ in range(3)]
        victim = start(work)
        kill_after(victim, random.Random(seed).uniform(0, 0.3))
        assert [end(pid) for pid in pids] == [0, 0, 0]
        count("faults: fits of processes that share a folder", 3)
        assert_same(model.fit(X_FAULTS), whole)
        assert len(list((tmp_path / str(seed)).glob("*.skevae"))) == 1


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


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.torture)])
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
                    count("faults: failing calls to the disk")
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


class Ended(BaseException):
    """What a handler of SIGTERM may raise, such as SystemExit: nothing of ours handles it."""


@pytest.fixture
def alarm():
    """Call that raises an exception after some seconds, KeyboardInterrupt as Ctrl-C does."""

    def interrupt(number, frame):
        raise kind

    kind = KeyboardInterrupt

    def set_alarm(seconds, raised=KeyboardInterrupt):
        nonlocal kind
        kind = raised
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such timer")
@short_and_long(2)
def test_ctrl_c_at_any_moment(long, request, alarm, tmp_path, save_each_epoch):
    whole = make().fit(X_FAULTS)
    for seed in seeds(long, request, 4):
        rng = random.Random(seed)
        folder = tmp_path / str(seed) if rng.random() < 0.5 else None
        model = make(checkpoint_dir=folder)
        was_fitted = rng.random() < 0.5
        if was_fitted:
            model.set_params(max_iter=1).fit(X_FAULTS[:30]).set_params(max_iter=12)
            before = model.score(X_FAULTS)
        try:
            alarm(rng.uniform(0.0005, 0.1), rng.choice([KeyboardInterrupt, Ended]))
            model.fit(X_FAULTS)
            alarm(0)
        except Ended:
            count("faults: fits ended by an exception of a signal's handler")
            assert hasattr(model, "module_") == was_fitted
            assert not was_fitted or model.score(X_FAULTS) == before
        except KeyboardInterrupt as error:
            count("faults: fits interrupted by Ctrl-C")
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
@short_and_long(2)
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
    count("faults: fits under a limit of memory", len(codes))
    count("faults: fits that such a limit stopped", codes.count(10))
    assert set(codes) <= {0, 10}, codes
