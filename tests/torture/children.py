"""Children that are forked, work on a small fit, and are ended at some moment."""

import os
import signal
import sys
import time
import traceback

import numpy as np
import pytest
import torch
from score_models import quick, rows
from small_priors import small_prior
from tally import count

X_FAULTS = rows(60, 3)

ENDS = [signal.SIGKILL, signal.SIGTERM]

forks = pytest.mark.skipif(
    not hasattr(os, "fork") or torch.get_num_threads() > 1,
    reason="children are forked, which takes a parent with one thread",
)


def short_and_long(share=1):
    long = pytest.param(True, marks=pytest.mark.torture(share=share))
    return pytest.mark.parametrize("long", [False, long])


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


def kill_after(pid, seconds, signal_number=signal.SIGKILL):
    time.sleep(seconds)
    os.kill(pid, signal_number)
    count(f"faults: processes ended by {signal.Signals(signal_number).name}")
    return end(pid)


def seeds(long, request, n_short):
    return request.getfixturevalue("rounds") if long else range(n_short)


def assert_same(one, other):
    np.testing.assert_array_equal(one.score_samples(X_FAULTS), other.score_samples(X_FAULTS))
    assert one.history_.keys() == other.history_.keys()
    for name, values in one.history_.items():
        np.testing.assert_array_equal(values, other.history_[name])
