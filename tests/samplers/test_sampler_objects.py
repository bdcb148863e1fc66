"""Samplers as parameters: objects with parameters of their own, cloned, searched and checked."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NeuralPrior
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.energies import CorrectedGaussianEnergy
from skevae.samplers import (
    GRADIENT_SAMPLERS,
    SAMPLERS,
    BlockGibbs,
    ExactSampler,
    Langevin,
    MetropolisLangevin,
    ParallelTempering,
    resolve_sampler,
)
from skevae.samplers.base import Sampler

X = load_iris().data
each_sampler = pytest.mark.parametrize("name", SAMPLERS)


def nested_rbm(sampler):
    return GaussianBernoulliRBMPrior(3, partition="persistent", sampler=sampler)


def rbm(sampler="gibbs", **params):
    brief = {"max_iter": 3, "batch_size": 64, "random_state": 0}
    return nested_rbm(sampler).set_params(**{**brief, **params})


@each_sampler
def test_a_clone_has_the_parameters_and_no_state(name, make_rbm, generator):
    energy, z = make_rbm(3, 4), torch.zeros(5, 3).double()
    used, fresh = resolve_sampler(name, n_steps=3), resolve_sampler(name, n_steps=3)
    first = used(energy, z, generator())
    again = clone(used)
    assert again.get_params() == used.get_params() == fresh.get_params()
    assert again.state().keys() == fresh.state().keys()
    assert torch.equal(again(energy, z, generator()), first)


@each_sampler
def test_a_name_and_an_object_of_the_same_parameters_fit_the_same(name):
    one = rbm(sampler=name).fit(X)
    other = rbm(sampler=SAMPLERS[name]()).fit(X)
    assert_array_equal(one.score_samples(X), other.score_samples(X))


def test_only_settings_that_a_sampler_has_reach_it():
    assert resolve_sampler("gibbs", n_steps=4, step_size=0.1).get_params() == {"n_steps": 4}
    assert resolve_sampler("exact", n_steps=4).get_params() == {}
    made = resolve_sampler("langevin", n_steps=4, step_size=0.1)
    assert made.get_params() == {"n_steps": 4, "step_size": 0.1, "n_scales": 1}


def test_an_object_keeps_its_own_parameters():
    given = ParallelTempering(n_steps=2, n_replicas=5)
    prior = rbm(sampler=given, n_gibbs_steps=7).fit(X)
    assert prior.sampler is given and given.state() == {}
    assert prior.density_.sampler is not given
    assert prior.density_.sampler.get_params() == {"n_steps": 2, "n_replicas": 5}


def test_parameters_change_the_fit():
    scores = [
        rbm(sampler=Langevin(step_size=step_size)).fit(X).score(X) for step_size in (0.1, 0.9)
    ]
    assert scores[0] != scores[1]


def test_parameters_of_a_nested_sampler():
    vae = EnergyVAE(prior=nested_rbm(ParallelTempering()))
    assert vae.get_params()["prior__sampler__n_replicas"] == 12
    vae.set_params(prior__sampler__n_replicas=3)
    assert clone(vae).prior.sampler.n_replicas == 3


def test_grid_search_over_the_replicas():
    vae = EnergyVAE(
        2, hidden_layer_sizes=8, max_iter=2, n_score_draws=20, random_state=0, batch_size=50
    ).set_params(prior=nested_rbm(ParallelTempering()))
    grid = {"prior__sampler__n_replicas": [2, 4]}
    search = GridSearchCV(vae, grid, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    n_replicas = search.best_params_["prior__sampler__n_replicas"]
    assert search.best_estimator_.prior_.density_.sampler.n_replicas == n_replicas


@each_sampler
def test_a_fitted_prior_with_a_sampler_object_survives_pickling(name):
    prior = rbm(sampler=SAMPLERS[name]()).fit(X)
    there = pickle.loads(pickle.dumps(prior))
    assert_array_equal(there.score_samples(X), prior.score_samples(X))
    assert there.density_.sampler.get_params() == prior.sampler.get_params()


@pytest.mark.parametrize(
    "sampler, parameter",
    [
        (ParallelTempering(n_replicas=1), "n_replicas"),
        (ParallelTempering(n_steps=0), "n_steps"),
        (BlockGibbs(n_steps=1.5), "n_steps"),
        (Langevin(step_size=0.0), "step_size"),
        (Langevin(n_scales=0), "n_scales"),
        (MetropolisLangevin(step_size="a"), "step_size"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_bad_parameter_is_named_before_training(sampler, parameter, nested):
    model = EnergyVAE(2, prior=nested_rbm(sampler)) if nested else rbm(sampler)
    with pytest.raises(ValueError, match=f"'{parameter}' parameter of {type(sampler).__name__}"):
        model.fit(X)


@pytest.mark.parametrize("sampler", [BlockGibbs, object(), 3])
def test_what_is_no_sampler_is_refused(sampler):
    with pytest.raises(ValueError, match="'sampler' parameter"):
        rbm(sampler=sampler).fit(X)


@pytest.mark.parametrize("sampler", ["exact", ExactSampler()])
def test_exact_draws_are_refused_where_they_cost_too_much(sampler, generator):
    with pytest.raises(ValueError, match="sampler=.*xact.*too expensive.*n_components=40"):
        GaussianBernoulliDensity(2, 40, generator=generator(), sampler=sampler)


# --- which energies a sampler serves --------------------------------------------------------------


@pytest.mark.parametrize("name", GRADIENT_SAMPLERS)
def test_gradient_samplers_serve_any_smooth_energy(name, generator, assert_mean):
    energy = CorrectedGaussianEnergy(
        torch.zeros(2).double(), torch.ones(2).double(), lambda z: 0.5 * z[..., 0].square()
    )
    z = torch.randn(4000, 2, generator=generator(), dtype=torch.float64)
    moved = resolve_sampler(name, n_steps=300, step_size=0.2)(energy, z, generator(1))
    # Half the variance along the first axis, up to the bias of unadjusted steps.
    assert_mean(moved[:, 0].square(), 0.5, n_errors=5.0)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - GRADIENT_SAMPLERS.keys()))
@pytest.mark.parametrize("as_object", [False, True])
def test_a_neural_prior_refuses_the_others(name, as_object):
    sampler = SAMPLERS[name]() if as_object else name
    with pytest.raises(ValueError, match="sampler") as caught:
        NeuralPrior((4,), sampler=sampler).fit(X)
    assert repr(sampler) in str(caught.value)


def test_a_neural_prior_takes_an_object():
    sampler = Langevin(n_steps=3, step_size=0.2)
    prior = NeuralPrior((4,), sampler=sampler, max_iter=2, n_annealing_steps=10, random_state=0)
    prior.fit(X)
    assert prior.density_.sampler.get_params() == sampler.get_params()


# --- a newcomer -----------------------------------------------------------------------------------


class CountedGibbs(Sampler):
    """Block Gibbs that counts its steps."""

    _count = 0

    def step(self, energy, z, generator, index):
        self._count += 1
        return BlockGibbs()(energy, z, generator)

    def state(self):
        return {"count": torch.tensor(self._count)}

    def resume(self, state):
        self._count = int(state["count"])


def test_a_newcomer_needs_no_more_than_a_step():
    newcomer = rbm(sampler=CountedGibbs()).fit(X)
    assert_array_equal(newcomer.score_samples(X), rbm().fit(X).score_samples(X))
    assert newcomer.run_chains(5, 4, random_state=0).samples.shape == (4, 5, 4)


def test_the_state_of_a_newcomer_is_carried_on():
    model = rbm(sampler=CountedGibbs(), batch_size=50)
    counts = []
    for _ in range(2):
        model.partial_fit(X)
        counts.append(int(model._training_state["partition"]["transition"]["count"]))
    assert counts[0] >= 3 and counts[1] == 2 * counts[0]
