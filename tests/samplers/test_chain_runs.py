"""`run_chains` of the priors that have Markov chains."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from skevae import GaussianBernoulliRBMPrior, NeuralPrior
from skevae.samplers import BlockGibbs, MetropolisLangevin, ParallelTempering
from skevae.samplers.chains import run_chains

X = load_iris().data


@pytest.fixture(scope="module")
def rbm():
    return GaussianBernoulliRBMPrior(3, max_iter=10, random_state=0).fit(X)


@pytest.fixture(scope="module")
def neural():
    return NeuralPrior((4,), max_iter=3, n_annealing_steps=20, random_state=0).fit(X)


def test_states_after_burn_in_are_kept():
    states = run_chains(
        lambda z, generator: z + 1, torch.zeros(2, 1), torch.Generator(), n_steps=3, burn_in=2
    )
    assert states[:, :, 0].tolist() == [[3, 3], [4, 4], [5, 5]]


def test_number_of_chains_that_contradicts_the_rows_is_an_error(rbm):
    with pytest.raises(ValueError, match="n_chains=7 does not match the 150 rows"):
        rbm.run_chains(7, 4, X=X)
    assert rbm.run_chains(150, 4, X=X).samples.shape == (4, 150, 4)
    assert rbm.run_chains(n_steps=4, X=X[:9]).samples.shape == (4, 9, 4)
    assert rbm.run_chains(n_steps=4).samples.shape == (4, 100, 4)


def test_a_sampler_object_brings_its_parameters(rbm):
    sampler = MetropolisLangevin(step_size=4.0)
    wild = rbm.run_chains(200, 4, sampler=sampler, random_state=0)
    calm = rbm.run_chains(200, 4, sampler=MetropolisLangevin(step_size=0.01), random_state=0)
    assert wild.acceptance_rate < 0.5 and calm.acceptance_rate > 0.99
    assert np.isnan(sampler.acceptance_rate)
    assert rbm.run_chains(20, 4, sampler=ParallelTempering(n_replicas=3)).samples.shape[0] == 4


def test_a_neural_prior_has_chains_too(neural):
    chains = neural.run_chains(20, 6, burn_in=2, random_state=0)
    assert chains.samples.shape == (6, 20, 4) and 0 < chains.acceptance_rate <= 1
    with pytest.raises(ValueError, match="BlockGibbs.*only samples Gaussian-Bernoulli"):
        neural.run_chains(20, 4, sampler=BlockGibbs())
    with pytest.raises(ValueError, match="sampler"):
        neural.run_chains(20, 4, sampler="gibbs")
