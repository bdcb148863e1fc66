"""What a sampler remembers survives checkpoints and passes of `partial_fit`."""

from itertools import product

import pytest
import torch
from numpy.testing import assert_array_equal
from pairs import quick_and_slow
from sklearn.base import clone
from sklearn.datasets import load_iris

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.partitions import DENSITY_PARTITIONS
from skevae.partitions.chains import ChainPartition
from skevae.samplers import SAMPLERS, ParallelTempering, resolve_sampler, tempering
from skevae.training import checkpoint

X = load_iris().data
CHAINS = [name for name, kind in DENSITY_PARTITIONS.items() if issubclass(kind, ChainPartition)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_sampler_goes_on_the_same(name, make_rbm, generator):
    energy, source = make_rbm(3, 4), generator(0)
    whole = resolve_sampler(name, n_steps=2)
    z = whole(energy, torch.zeros(6, 3).double(), source)
    state, here = whole.state(), source.get_state()
    copied = {key: value.clone() for key, value in state.items()}
    expected = whole(energy, z, source)
    # A state is a copy, on which later transitions have no effect.
    assert all(torch.equal(state[key], copied[key]) for key in copied)
    other = resolve_sampler(name, n_steps=2)
    other.resume(state)
    source.set_state(here)
    assert torch.equal(other(energy, z, source), expected)
    assert other.state().keys() == state.keys()


def test_replicas_are_the_state_of_tempering(make_rbm, generator):
    sampler = ParallelTempering(n_replicas=5)
    assert sampler.state() == {}
    sampler(make_rbm(3, 4), torch.zeros(6, 3).double(), generator())
    replicas = sampler.state()["replicas"]
    assert replicas.shape == (5, 6, 3) and replicas.device.type == "cpu"


@pytest.mark.parametrize("partition", CHAINS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_estimate_goes_on_the_same(partition, sampler, generator):
    density = GaussianBernoulliDensity(2, 3, generator=generator(), sampler=sampler)
    rows, source = torch.randn(8, 2, generator=generator(1)), generator(2)
    whole = DENSITY_PARTITIONS[partition](density, source)
    whole.evaluate(rows)
    state, here = whole.state(), source.get_state()
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}

    def gradient(estimate):
        return torch.autograd.grad(estimate.evaluate(rows), density.weight)[0]

    expected = gradient(whole)
    other = DENSITY_PARTITIONS[partition](density, generator(3))
    other.resume(state)
    other.generator.set_state(here)
    assert torch.equal(gradient(other), expected)


class Cut(BaseException):
    """What stops a process."""


def cut_off(estimator, epoch, monkeypatch):
    def write(line):
        if f"epoch {epoch} " in line:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", write)
        with pytest.raises(Cut):
            clone(estimator).set_params(verbose=1).fit(X)


def rbm(partition, **params):
    sampler = ParallelTempering(n_replicas=4)
    return GaussianBernoulliRBMPrior(
        4, partition=partition, sampler=sampler, random_state=0, max_iter=6, **params
    )


def vae(partition, **params):
    prior = GaussianBernoulliRBMPrior(4, sampler="parallel-tempering")
    return EnergyVAE(
        2,
        prior=prior,
        partition=partition,
        hidden_layer_sizes=8,
        max_iter=6,
        early_stopping=False,
        n_score_draws=20,
        random_state=0,
        **params,
    )


@quick_and_slow(
    "make, partition",
    [(rbm, "persistent"), (vae, "persistent")],
    product([rbm, vae], CHAINS),
)
def test_a_fit_with_tempering_goes_on_as_if_it_had_not_been_cut_off(
    make, partition, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0.0)
    whole = make(partition).fit(X)
    cut = make(partition, checkpoint_dir=tmp_path)
    cut_off(cut, 4, monkeypatch)
    resumed = cut.fit(X)
    assert_array_equal(resumed.score_samples(X), whole.score_samples(X))
    for name, values in whole.history_.items():
        assert_array_equal(resumed.history_[name], values, err_msg=name)


@pytest.mark.parametrize("make", [rbm, vae])
def test_passes_of_partial_fit_keep_the_replicas(make, monkeypatch):
    relaxed = []
    block_gibbs = tempering.block_gibbs

    def spy(energy, z, generator, n_steps=1):
        relaxed.append(n_steps)
        return block_gibbs(energy, z, generator, n_steps)

    monkeypatch.setattr(tempering, "block_gibbs", spy)
    model = make("persistent").partial_fit(X)
    n_replicas = len(model._training_state["partition"]["transition"]["replicas"])
    assert relaxed.count(tempering.RELAXATION_SWEEPS) == n_replicas
    model.partial_fit(X)
    assert relaxed.count(tempering.RELAXATION_SWEEPS) == n_replicas
