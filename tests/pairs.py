"""Few combinations of options in which all pairs or triples of values meet, instead of all of them.

Faults of an option alone and of two options together are what nearly all faults are; those show in
every set of cases that holds each pair once, which is as small as the product of the two longest
columns and not of all (Kuhn, Wallace & Gallo, 2004).
"""

from itertools import combinations, product

import pytest


def cover(cases, size=2):
    """Cases out of those given that hold each `size` values, with their columns, which any holds.

    Greedy: of all cases the one with the most of what is still missing comes next, the first of
    them where several have as many.
    """
    rest = {case: set(combinations(enumerate(case), size)) for case in cases}
    missing, chosen = set().union(*rest.values()), []
    while missing:
        best = max(rest, key=lambda case: len(rest[case] & missing))
        missing -= rest.pop(best)
        chosen.append(best)
    return chosen


def all_pairs(*columns, allowed=lambda *case: True):
    """Cases, one value from each column, that hold every pair which an allowed case can hold."""
    return cover([case for case in product(*columns) if allowed(*case)])


def quick_and_slow(names, quick, everything, **options):
    """Parametrize a test over everything; what is not among the quick cases is marked slow."""
    quick = list(dict.fromkeys(quick))
    everything = [*quick, *(case for case in everything if case not in quick)]
    marks = {True: (), False: pytest.mark.slow}
    cases = [pytest.param(*case, marks=marks[case in quick]) for case in everything]
    return pytest.mark.parametrize(names, cases, **options)


def pairwise(names, *columns, allowed=lambda *case: True):
    """Parametrize a test over all pairs of values; all other combinations are marked slow."""
    everything = [case for case in product(*columns) if allowed(*case)]
    return quick_and_slow(names, all_pairs(*columns, allowed=allowed), everything)
