"""How long the long form may take, and from which seed it starts.

The long form is bounded by SKEVAE_TORTURE_MINUTES (10 by default), shared out among its tests, and
starts from SKEVAE_TORTURE_SEED (drawn by default). The seed is printed at the top, and that of each
round before the round, so that what failed can be run again.
"""

import os
import random
import time

import pytest

MINUTES = float(os.environ.get("SKEVAE_TORTURE_MINUTES", 10))
SEED = int(os.environ.get("SKEVAE_TORTURE_SEED", random.SystemRandom().randrange(10**6)))


def pytest_report_header():
    return f"torture: SKEVAE_TORTURE_MINUTES={MINUTES:g} SKEVAE_TORTURE_SEED={SEED}"


@pytest.fixture
def rounds(request):
    """Seeds, one after the other, until this test has used up its share of the minutes."""
    n_tests = sum(item.get_closest_marker("torture") is not None for item in request.session.items)

    def seeds():
        end, number = time.monotonic() + 60 * MINUTES / max(1, n_tests), 0
        while number == 0 or time.monotonic() < end:
            print(f"round {number}: seed {SEED + number}", flush=True)
            yield SEED + number
            number += 1
        print(f"{number} rounds")

    return seeds()
