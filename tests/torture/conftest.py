"""How long the long form may take, from which seed it starts, and what it has tried at the end.

The long form is bounded by SKEVAE_TORTURE_MINUTES (10 by default), shared out among the tests that
go round by round, in proportion to the ``share`` of their mark; those of a fixed size come on top.
It starts from SKEVAE_TORTURE_SEED (drawn by default). The seed is printed at the top, and that of
each round before the round, so that what failed can be run again.
"""

import os
import random
import time

import pytest
from tally import TRIED

from skevae.training import checkpoint

MINUTES = float(os.environ.get("SKEVAE_TORTURE_MINUTES", 10))
SEED = int(os.environ.get("SKEVAE_TORTURE_SEED", random.SystemRandom().randrange(10**6)))


def pytest_report_header():
    return f"torture: SKEVAE_TORTURE_MINUTES={MINUTES:g} SKEVAE_TORTURE_SEED={SEED}"


def pytest_terminal_summary(terminalreporter):
    if TRIED:
        terminalreporter.section("cases tried")
        for kind, n in sorted(TRIED.items()):
            terminalreporter.write_line(f"{n:10,}  {kind}")


def share_of(item):
    mark = item.get_closest_marker("torture")
    return 0 if mark is None else mark.kwargs.get("share", 0)


@pytest.fixture
def rounds(request):
    """Seeds, one after the other, until this test has used up its share of the minutes."""
    part = share_of(request.node) / sum(map(share_of, request.session.items))

    def seeds():
        end, number = time.monotonic() + 60 * MINUTES * part, 0
        while number == 0 or time.monotonic() < end:
            print(f"round {number}: seed {SEED + number}", flush=True)
            yield SEED + number
            number += 1
        print(f"{number} rounds")

    return seeds()


@pytest.fixture
def save_each_epoch(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0.0)
