"""How many cases of each kind were tried, printed when the run ends."""

from collections import Counter

TRIED: Counter = Counter()


def count(kind, n=1):
    """Note that ``n`` more cases of this kind were tried."""
    TRIED[kind] += n
