"""Law 1: a density integrates to one, for every prior, posterior, likelihood and training."""

import itertools
from itertools import product

import numpy as np
import pytest
from pairs import all_pairs, cover, quick_and_slow
from scipy.special import expit
from score_models import FLOWS, GAUSSIANS, prior_of, quick, two_groups

from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS

N_GRID = 33
N_DRAWS = 1000
# What the paper's training leaves is spiky: its integral takes more draws to the same error.
N_DRAWS_SPIKY = 4000


def plane(model):
    """Grid over all that the model generates, and the area of its cells.

    Sums over such a grid converge faster than any power of its step once the step is below the
    narrowest scale, so the sum over every second point bounds what it misses.
    """
    X = model.sample(4000, random_state=1)
    low, high = X.min(axis=0), X.max(axis=0)
    margin = 0.3 * (high - low)
    axes = [np.linspace(a, b, N_GRID) for a, b in zip(low - margin, high + margin, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid.astype(np.float32), float(np.prod([axis[1] - axis[0] for axis in axes]))


def shortfall(prior):
    """Least that a score can integrate to, as it errs low by the width of the interval of ln Z."""
    low, high = prior.log_partition_interval_
    return np.exp(low - high)


def integrate(log_density, cell, tolerance=0.01):
    density = np.exp(log_density.astype(np.float64)).reshape(N_GRID, N_GRID)
    fine, coarse = cell * density.sum(), 4 * cell * density[::2, ::2].sum()
    assert abs(fine - coarse) < tolerance, "the grid is too coarse for this density"
    return fine


# All partitions and likelihoods come with two priors, each other prior as it is by default. Flows
# take part with the ways to train that can differ for them: one that asks for their density at any
# z, and one that does not.
CLOSED = ["diagonal", "fixed"]
SETTINGS = [
    *product(PARTITIONS, ["grbm", "normal"], CLOSED, GAUSSIANS),
    *product(["exact", "aggregate"], ["grbm", "normal"], FLOWS, ["gaussian"]),
    *product(["auto"], ["mixture", "vamp", "neural"], CLOSED, ["gaussian"]),
    *product(["auto"], ["vamp"], FLOWS, ["gaussian"]),
    ("auto", "flow", "diagonal", "gaussian"),  # thousands of splines a row take their time
]
# What is spiky or slow comes twice or once, the rest in all pairs of what a score sees. Partitions,
# by which models are only trained, take turns.
ORDINARY = [name for name in PARTITIONS if name != "posterior"]
PAIRS = all_pairs(["grbm", "normal"], CLOSED, GAUSSIANS)
QUICK = [
    *(
        (partition, *case)
        for partition, case in zip(itertools.cycle(ORDINARY), PAIRS, strict=False)
    ),
    ("posterior", "grbm", "fixed", "gaussian"),
    ("posterior", "normal", "diagonal", "gaussian-rowwise"),
    ("exact", "grbm", FLOWS[0], "gaussian"),
    *product(["auto"], ["mixture", "vamp", "neural"], ["diagonal"], ["gaussian"]),
]


@quick_and_slow("partition, prior, posterior, likelihood", QUICK, cover(SETTINGS, 3))
def test_density_integrates_to_one(partition, prior, posterior, likelihood):
    n_draws = N_DRAWS_SPIKY if partition == "posterior" else N_DRAWS
    n_draws = 1000 if posterior in FLOWS or prior == "flow" else n_draws
    model = quick(
        prior=prior_of(prior),
        posterior=posterior,
        likelihood=likelihood,
        partition=partition,
        n_score_draws=n_draws,
    ).fit(two_groups())
    grid, cell = plane(model)
    mass = integrate(model.score_samples(grid), cell)
    # Independent noise tells how far the integral of one block of noise may be off, and every
    # second point is as good as all of them, as `integrate` has just found.
    n_few, coarse = n_draws // 8, grid.reshape(N_GRID, N_GRID, 2)[::2, ::2].reshape(-1, 2)
    scores = [
        model.log_likelihood(coarse, n_draws=n_few, random_state=i).log_likelihood for i in range(4)
    ]
    others = 4 * cell * np.exp(np.float64(scores)).sum(axis=1)
    standard_error = np.std(others, ddof=1) * np.sqrt(n_few / n_draws)
    assert standard_error < 0.01
    assert shortfall(model.prior_) - 0.02 < mass < 1.02


@pytest.mark.parametrize("prior", PRIORS)
def test_density_of_a_prior_integrates_to_one(prior):
    model = quick(prior=prior_of(prior)).fit(two_groups()).prior_
    grid, cell = plane(model)
    # A spline has kinks, which the grid sees.
    error = 0.02 if prior == "flow" else 1e-4
    mass = integrate(model.score_samples(grid), cell, 0.05 if prior == "flow" else 0.01)
    assert shortfall(model) - error < mass < 1 + error


def test_sampled_rows_have_the_scored_density():
    # E[p(x)] over samples equals the integral of p^2 over the grid: sampler and score agree.
    model = quick(prior=prior_of("grbm"), max_iter=30, n_score_draws=N_DRAWS).fit(two_groups())
    grid, cell = plane(model)
    expected = cell * np.exp(2.0 * model.score_samples(grid).astype(np.float64)).sum()
    X = model.sample(4000, random_state=2).astype(np.float32)
    density = np.exp(model.score_samples(X).astype(np.float64))
    error = density.std() / np.sqrt(len(X))
    assert abs(density.mean() - expected) < 5 * error + 0.02 * expected


@quick_and_slow(
    "prior, posterior",
    [
        *zip(PRIORS, itertools.cycle(CLOSED), strict=False),
        *zip(["grbm", "normal"], FLOWS, strict=True),
    ],
    product(PRIORS, POSTERIORS),
)
def test_binary_rows_have_probabilities_that_sum_to_one(prior, posterior):
    n_features = 6
    every_row = np.array(list(itertools.product([0.0, 1.0], repeat=n_features)))
    rng = np.random.RandomState(0)
    logits = 3 * rng.normal(size=(200, 1)) * np.linspace(-1, 1, n_features)
    X = (rng.uniform(size=logits.shape) < expit(logits)).astype(float)
    model = quick(prior=prior_of(prior), posterior=posterior, likelihood="bernoulli").fit(X)
    sums = [
        np.exp(model.log_likelihood(every_row, random_state=seed).log_likelihood).sum()
        for seed in range(8)
    ]
    error = np.std(sums, ddof=1)
    assert error < 0.05
    least, mean_error = shortfall(model.prior_), 5 * error / np.sqrt(len(sums))
    assert least - mean_error < np.mean(sums) < 1 + mean_error
    assert least - 5 * error < np.exp(model.score_samples(every_row)).sum() < 1 + 5 * error
