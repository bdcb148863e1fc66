"""The generator of test cases leaves out no pair of values, and not much is left over."""

from itertools import combinations, product

import pytest
from pairs import all_pairs, cover

COLUMNS = ["abc", range(4), (True, False), "xyz", "pq"]


@pytest.mark.parametrize("columns", [COLUMNS[:2], COLUMNS[:3], COLUMNS])
def test_every_pair_of_values_meets(columns):
    cases = all_pairs(*columns)
    for i, j in combinations(range(len(columns)), 2):
        assert {(case[i], case[j]) for case in cases} == set(product(columns[i], columns[j]))


def test_cases_are_few_and_each_is_one_of_the_product():
    cases = all_pairs(*COLUMNS)
    assert len(cases) == len(set(cases)) and set(cases) <= set(product(*COLUMNS))
    # At least 4 x 3 are needed, and all combinations are 144.
    assert 12 <= len(cases) <= 18


def test_what_is_not_allowed_does_not_come_and_takes_no_other_pair_along():
    def allowed(letter, number):
        return (letter, number) != ("a", 0)

    assert set(all_pairs("abc", range(4), allowed=allowed)) == {
        case for case in product("abc", range(4)) if allowed(*case)
    }


def test_every_three_values_meet_where_three_are_asked_for():
    def triples(cases):
        return {triple for case in cases for triple in combinations(enumerate(case), 3)}

    everything = [case for case in product(*COLUMNS) if case[:2] != ("a", 0)]
    cases = cover(everything, 3)
    assert triples(cases) == triples(everything)
    # At least 4 x 3 x 3 are needed, less those that are left out.
    assert len(cases) < len(everything) / 2 and set(cases) <= set(everything)


def test_the_cases_are_the_same_each_time():
    assert all_pairs(*COLUMNS) == all_pairs(*COLUMNS)
