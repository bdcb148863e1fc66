"""Integers of few values: all integers have probability 1, and samples follow it."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import laplace

from skevae import EnergyVAE
from skevae.likelihoods import GaussianMixtureLikelihood
from skevae.likelihoods.integer import BinnedMixture
from skevae.likelihoods.mixed import make_table_likelihood
from skevae.likelihoods.seen import (
    SeenIntegers,
    SeenValues,
    are_told_apart,
    few_values,
    values_seen,
)

VALUES = [[0.0, 4.0, 40.0], [1.0, 2.0], [-3.0, 5.0, 6.0]]
CENTRE, SPREAD = torch.tensor([10.0, 1.0, 2.0]), torch.tensor([15.0, 0.5, 4.0])


@pytest.fixture
def likelihood():
    values = [
        (torch.tensor(v, dtype=torch.float64) - c) / s
        for v, c, s in zip(VALUES, CENTRE, SPREAD, strict=True)
    ]
    return SeenIntegers(0.5 / SPREAD, values, [9, 30, 100]).double()


@pytest.fixture
def outputs(likelihood):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((5, likelihood.n_outputs), generator=generator, dtype=torch.float64)


def standardised(integers):
    return (integers[:, None] - CENTRE) / SPREAD


def probabilities(likelihood, outputs, integers):
    """Of each integer in each column, (n_integers, n_outputs, n_columns)."""
    x = standardised(integers.double())[:, None].expand(-1, len(outputs), -1)
    return likelihood.feature_log_density(x, outputs.expand(len(x), -1, -1)).exp()


def test_all_integers_have_probability_one(likelihood, outputs):
    found = probabilities(likelihood, outputs, torch.arange(-400, 400))
    assert_allclose(found.sum(0), 1, rtol=1e-6)


def test_values_never_seen_have_the_mass_of_a_laplace_distribution(likelihood, outputs):
    # Median 4 and mean absolute deviation 40 / 3; one row more than nine.
    law = laplace(4, 40 / 3)
    for k in (-300, 3, 5, 17, 39, 41, 2000):
        found = probabilities(likelihood, outputs, torch.tensor([k]))[0, :, 0]
        below, above = sorted([-abs(k - 4) - 0.5, -abs(k - 4) + 0.5])
        assert_allclose(found, (law.cdf(4 + above) - law.cdf(4 + below)) / 10, rtol=1e-6)
    # A column of two neighbours has half a unit as its deviation, and a mode inside an interval.
    found = probabilities(likelihood, outputs, torch.tensor([1, 2, 3]))[:, :, 1]
    assert (found > 0).all() and (found.sum(0) < 1).all()


def test_the_weight_of_values_that_were_seen(likelihood, outputs):
    logits = dict(enumerate(likelihood.seen.grouped_logits(outputs)))
    columns, of_three = logits[0] if len(logits[0][0]) == 2 else logits[1]
    assert columns == [0, 2]
    x = torch.tensor([0, 4, 40])
    own = of_three.softmax(-1)[:, 0].T * 9 / 10
    law = laplace(4, 40 / 3)
    rest = [law.cdf(k + 0.5) - law.cdf(k - 0.5) for k in x.tolist()]
    found = probabilities(likelihood, outputs, x)[:, :, 0]
    assert_allclose(found, own + torch.tensor(rest)[:, None] / 10, rtol=1e-6)


def test_mean_and_samples_are_those_of_the_probabilities(likelihood, outputs, assert_mean):
    generator = torch.Generator().manual_seed(1)
    drawn = likelihood.sample(outputs.expand(20_000, -1, -1), generator)
    assert_mean(drawn, likelihood.mean(outputs))
    integers = (drawn * SPREAD + CENTRE).round()
    for j, values in enumerate(VALUES):
        for value in values:
            share = probabilities(likelihood, outputs, torch.tensor([value]))[0, :, j]
            assert_mean((integers[..., j] == value).double(), share)


def test_gradients_are_finite_and_right(likelihood, outputs, assert_gradient):
    x = standardised(torch.tensor([4.0, 2.0, 5.0, 17.0, 0.0], dtype=torch.float64))
    outputs.requires_grad_()
    assert_gradient(lambda: likelihood.log_density(x, outputs).sum(), [outputs])


@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize(
    "column, values",
    [
        (np.repeat([7.0, 1.0, np.nan], 10), [1, 7]),
        (np.repeat([7.0, 1.0], 9), None),  # not often enough
        (np.repeat(9.0 * np.arange(51), 10), None),  # too many
        (np.repeat(9.0 * np.arange(50), 10), 9 * np.arange(50)),
        (np.repeat([1.0, 2.0, 3.0, 5.0], 10), None),  # no gaps
        (np.repeat([0.0, 1.0, 2.0, 3.0, 50.0, 90.0], [99, 99, 99, 99, 1, 1]), None),  # a long tail
        (np.repeat([0.0, 6.0, 7.0, 12.0, 24.0], [99, 99, 1, 99, 99]), [0, 6, 7, 12, 24]),
    ],
)
def test_few_values_are_repeated_ones(column, values, n_parts):
    found = few_values([values_seen(part) for part in np.array_split(column, n_parts)])
    if values is None:
        assert found is None
    else:
        assert_array_equal(found.values, values)
        assert_array_equal(found.counts, [(column == value).sum() for value in values])


def test_values_that_float32_does_not_tell_apart():
    assert are_told_apart(np.array([-1.0, 1.0]), 1e-3)
    assert not are_told_apart(np.array([-1.0, 1.0]), 1e-8)


def test_columns_that_float32_does_not_tell_apart_are_left_to_the_mixture():
    fine, coarse = (SeenValues(np.array([-1.0, 1.0]), np.array([50, 50])) for _ in range(2))
    half_units = np.array([1e-9, 1e-2])
    family = GaussianMixtureLikelihood()
    likelihood = make_table_likelihood(family, np.zeros(2, int), half_units, [fine, coarse])
    kinds = [(columns, type(part)) for columns, part in likelihood.parts]
    assert kinds == [([0], BinnedMixture), ([1], SeenIntegers)]
    x = torch.tensor([[1.0, 1.0]])
    assert likelihood.log_density(x, torch.zeros(1, likelihood.n_outputs)).isfinite().all()


def brackets(n=300, scale=1):
    """Two columns of integers: ends of brackets that follow a count."""
    rng = np.random.RandomState(0)
    count = rng.poisson(3, n)
    ends = np.array([2500, 7500, 15000, 70000])[np.minimum(count // 2, 3)]
    return pd.DataFrame({"ends": ends * scale, "count": count})


def test_brackets_have_probabilities_instead_of_densities():
    frame = brackets()
    vae = EnergyVAE(
        2,
        hidden_layer_sizes=(16,),
        max_iter=20,
        learning_rate=0.02,
        n_score_draws=100,
        random_state=0,
    ).fit(frame)
    # At best -1.95 nats, the entropy of the counts, which tell the brackets. Mixtures of three
    # normals cannot have all their mass on four of 70,000 integers.
    usual = vae.score(frame[:100])
    assert usual > -3
    unseen = vae.score_samples(pd.DataFrame({"ends": [3000], "count": [1]}))
    assert np.isfinite(unseen).all() and unseen < usual - 3
    drawn = vae.sample(200, random_state=0)
    assert drawn["ends"].isin(frame["ends"]).mean() > 0.9
    assert (drawn.dtypes == frame.dtypes).all()


def test_rows_of_weight_zero_have_no_values():
    frame = brackets()
    other = pd.concat([frame, frame.assign(ends=99)])
    weights = np.repeat([1.0, 0.0], len(frame))
    model = EnergyVAE(2, max_iter=2, random_state=0)
    with_others = model.fit(other, sample_weight=weights).score_samples(frame[:20])
    alone = model.fit(frame, sample_weight=weights[: len(frame)]).score_samples(frame[:20])
    assert_allclose(with_others, alone)
