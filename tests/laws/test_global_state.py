"""Law 9: no public call reads or moves the global generators of random, NumPy and torch."""

import random
from itertools import product

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from pairs import all_pairs
from scipy.special import expit
from score_models import nothing_is_exact, prior_of, quick, rows
from small_priors import LATER, small_prior

from skevae import GaussianBernoulliRBMPrior, NormalPrior
from skevae.datasets import TOY_DENSITIES, toy_density
from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS

X_GLOBAL = rows(80)
X_UNIT = expit(X_GLOBAL - 3)


def global_states():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return random.getstate(), [*map(np.copy, numpy_state[1:])], torch.get_rng_state().numpy()


SEEDS = {"none": None, "integer": 0, "instance": np.random.RandomState(0)}
TRAININGS = {
    "pairs": all_pairs(SEEDS, PARTITIONS, POSTERIORS),
    "everything": list(product(SEEDS, PARTITIONS, POSTERIORS)),
}


def public_calls(kind, trainings):
    seed = SEEDS[kind]
    vae = quick(prior=prior_of("grbm"), max_iter=1, random_state=seed, n_score_draws=20)
    for other, partition, posterior in trainings:
        if other == kind:
            vae.set_params(partition=partition, posterior=posterior, early_stopping=True)
            yield vae.fit, (X_GLOBAL,), {}
    yield vae.partial_fit, (X_GLOBAL,), {}
    for name in ("score", "score_samples", "transform", "reconstruct", "log_likelihood"):
        yield getattr(vae, name), (X_GLOBAL,), {}
    yield vae.log_likelihood, (X_GLOBAL,), {"random_state": seed, "method": "self_normalized"}
    yield vae.inverse_transform, (np.zeros((3, 2)),), {}
    yield vae.sample, (3,), {}
    yield vae.sample, (3,), {"random_state": seed}
    yield vae.prior_.sample, (3,), {}
    images = quick(likelihood="bernoulli", prior="normal", max_iter=1, random_state=seed)
    for name in ("fit", "partial_fit", "score", "transform"):
        yield getattr(images, name), (X_UNIT,), {}
    yield images.sample, (3,), {}
    rbm = GaussianBernoulliRBMPrior(4, max_iter=2, random_state=seed)
    for partition in ("exact", "persistent"):
        rbm.set_params(partition=partition)
        for name in ("fit", "transform", "gibbs", "energy", "score_samples", "score"):
            yield getattr(rbm, name), (X_GLOBAL,), {}
        yield rbm.sample, (3,), {"random_state": seed}
    for prior in LATER:
        own = small_prior(prior, max_iter=1, n_annealing_steps=20, random_state=seed)
        for name in ("fit", "partial_fit", "energy", "score_samples", "score"):
            yield getattr(own, name), (X_GLOBAL,), {}
        yield own.sample, (3,), {}
        yield repr, (own.density_,), {}
        yield quick(prior=own, max_iter=1, random_state=seed).fit, (X_GLOBAL,), {}
    normal = NormalPrior(random_state=seed)
    yield normal.fit, (X_GLOBAL,), {}
    yield normal.score_samples, (X_GLOBAL,), {}
    yield normal.sample, (3,), {}
    for name in TOY_DENSITIES:
        yield toy_density(name).sample, (10,), {"random_state": seed}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("trainings", ["pairs", pytest.param("everything", marks=pytest.mark.slow)])
def test_global_generators_are_untouched(seed, trainings):
    before = global_states()
    for method, args, kwargs in public_calls(seed, TRAININGS[trainings]):
        method(*args, **kwargs)
        after = global_states()
        assert after[0] == before[0], method
        for new, old in zip(after[1], before[1], strict=True):
            assert_array_equal(new, old, err_msg=str(method))
        assert_array_equal(after[2], before[2], err_msg=str(method))


def test_annealing_leaves_the_global_generators_alone(monkeypatch):
    nothing_is_exact(monkeypatch)
    before = global_states()
    vae = quick(prior=prior_of("grbm"), random_state=None, max_iter=1).fit(X_GLOBAL)
    vae.sample(2)
    after = global_states()
    assert after[0] == before[0]
    assert_array_equal(after[1][0], before[1][0])
    assert_array_equal(after[2], before[2])


def test_global_seeds_have_no_influence():
    scores = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        scores.append(quick(max_iter=2).fit(X_GLOBAL).score_samples(X_GLOBAL))
    assert_array_equal(scores[0], scores[1])
