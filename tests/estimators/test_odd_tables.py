"""Tables of odd columns: refused with a remedy, or taken for what they are."""

from datetime import datetime, time

import numpy as np
import pandas as pd
import pytest
from score_models import quick

from skevae import GaussianBernoulliRBMPrior

N = 20
NUMBERS = np.random.RandomState(0).normal(size=(N, 2))


def vae():
    return quick(prior="normal", max_iter=1, n_score_draws=5)


def rbm():
    return GaussianBernoulliRBMPrior(2, max_iter=1, random_state=0)


def frame(column):
    return pd.DataFrame({"a": NUMBERS[:, 0], "odd": column})


def refused(dtype_or_value):
    return f"column 'odd' .*{dtype_or_value}.*(Convert|convert)"


UNREADABLE = {
    "period": (pd.period_range("2020", periods=N, freq="M"), refused("period")),
    "interval": (pd.arrays.IntervalArray.from_breaks(range(N + 1)), refused("interval")),
    "datetimes": (pd.date_range("2020", periods=N, tz="UTC"), refused("datetime64")),
}
OBJECTS = {
    "objects that are dates": (datetime(2020, 1, 1), refused("datetime")),
    "lists": ([1], refused(r"\[1\]")),
    "dicts": ({}, refused("{}")),
}


@pytest.mark.parametrize("maker", [vae, rbm])
@pytest.mark.parametrize("column, message", UNREADABLE.values(), ids=UNREADABLE)
def test_columns_that_hold_neither_numbers_nor_categories_are_named(column, message, maker):
    with pytest.raises(TypeError, match=message):
        maker().fit(frame(column))


@pytest.mark.parametrize("value, message", OBJECTS.values(), ids=OBJECTS)
def test_objects_that_are_neither_numbers_nor_categories_are_named(value, message):
    with pytest.raises(TypeError, match=message):
        vae().fit(frame(pd.Series([value] * N, dtype=object)))
    numbers = frame(pd.Series([1.5, 2] * (N // 2), dtype=object))
    model = vae().fit(numbers)
    with pytest.raises(TypeError, match=message):
        model.score(numbers.assign(odd=pd.Series([value] * N, dtype=object)))


@pytest.mark.parametrize(
    "column, dtype", [([1], "List"), (time(1), "Time"), ({"x": 1}, "Struct"), (b"a", "Binary")]
)
def test_columns_of_polars_too(column, dtype):
    polars = pytest.importorskip("polars")
    X = polars.DataFrame({"a": NUMBERS[:, 0], "odd": [column] * N})
    with pytest.raises(TypeError, match=refused(dtype)):
        vae().fit(X)


@pytest.mark.parametrize("maker", [vae, rbm])
def test_tables_that_are_no_tables_say_what_to_pass(maker):
    structured = np.array([tuple(row) for row in NUMBERS], dtype=[("a", float), ("b", float)])
    with pytest.raises(TypeError, match=r"structured array.*pandas.DataFrame\(X\)"):
        maker().fit(structured)
    with pytest.raises(ValueError, match=r"no columns|0 feature|at least one array"):
        maker().fit(pd.DataFrame(NUMBERS).iloc[:, :0])
    polars = pytest.importorskip("polars")
    with pytest.raises(TypeError, match=r"LazyFrame.*X.collect\(\)"):
        maker().fit(polars.DataFrame({"a": NUMBERS[:, 0]}).lazy())


@pytest.mark.parametrize("maker", [vae, rbm])
@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4"])
def test_the_byte_order_of_another_machine(maker, dtype):
    foreign = (4 * NUMBERS).astype(dtype)
    native = foreign.astype(foreign.dtype.newbyteorder("="))
    for container in (np.asarray, pd.DataFrame):
        scores = [maker().fit(container(X)).score_samples(container(X)) for X in (foreign, native)]
        # Old versions of NumPy sum in another order, by which the means differ in the last digit.
        np.testing.assert_allclose(*scores, rtol=1e-12)


def test_a_given_value_that_is_no_number_is_named():
    with pytest.raises(TypeError, match="column 0 holds 'x', which is neither a number"):
        vae().fit(NUMBERS).sample(2, given={0: "x"})
