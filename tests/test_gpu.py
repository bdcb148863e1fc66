"""The same model on a GPU: scores, samples, training, and the way back to a CPU."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.samplers import SAMPLERS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

X_IRIS = load_iris().data


def vae(**params):
    defaults = {
        "n_components": 3,
        "hidden_layer_sizes": (16,),
        "prior": GaussianBernoulliRBMPrior(6),
        "max_iter": 10,
        "n_score_draws": 200,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


def rbm(**params):
    return GaussianBernoulliRBMPrior(6, **{"max_iter": 10, "random_state": 0, **params})


def states():
    return torch.get_rng_state().numpy(), torch.cuda.get_rng_state().numpy()


@pytest.mark.parametrize("make", [vae, rbm])
def test_scores_do_not_depend_on_the_device(make):
    model = make(device="cpu").fit(X_IRIS)
    on_cpu, latents = model.score_samples(X_IRIS), model.transform(X_IRIS)
    model.set_params(device="cuda")
    assert_allclose(model.score_samples(X_IRIS), on_cpu, rtol=1e-10)
    assert_allclose(model.transform(X_IRIS), latents, rtol=1e-10, atol=1e-12)
    single = X_IRIS.astype(np.float32)
    # TF32 products would show here: they keep 10 bits.
    assert_allclose(model.score_samples(single), on_cpu, atol=1e-3)


def test_diagnostics_do_not_depend_on_the_device():
    model = vae(device="cpu").fit(X_IRIS)
    on_cpu = model.log_likelihood(X_IRIS)
    on_gpu = model.set_params(device="cuda").log_likelihood(X_IRIS)
    for name in on_cpu:
        assert_allclose(on_gpu[name], on_cpu[name], rtol=1e-8, err_msg=name)


def test_exact_log_partition_on_a_gpu():
    model = vae(prior=GaussianBernoulliRBMPrior(24), device="cpu", max_iter=2).fit(X_IRIS)
    on_cpu = model.prior_.log_partition_
    there = pickle.loads(pickle.dumps(model)).set_params(device="cuda")
    there.prior_.set_params(device="cuda")
    there.prior_._interval = None
    assert there.prior_.log_partition_ == pytest.approx(on_cpu, rel=1e-12)


@pytest.mark.parametrize("make", [vae, rbm])
def test_fit_on_a_gpu_then_pickle_then_cpu(make):
    model = make(device="cuda").fit(X_IRIS)
    model.partial_fit(X_IRIS)  # what that carries on is a part of the pickle
    on_gpu = model.score_samples(X_IRIS)
    data = pickle.dumps(model)
    assert b"cuda:" not in data
    there = pickle.loads(data).set_params(device="cpu")
    assert_allclose(there.score_samples(X_IRIS), on_gpu, rtol=1e-10)
    assert np.isfinite(there.sample(5)).all()
    assert np.isfinite(there.partial_fit(X_IRIS).score(X_IRIS))


@pytest.mark.parametrize("make", [vae, rbm])
def test_training_gets_as_far(make):
    scores = [make(device=name, max_iter=40).fit(X_IRIS).score(X_IRIS) for name in ("cpu", "cuda")]
    # Other draws, the same law: random_state moves a short run on 150 rows by a tenth of a nat.
    assert abs(scores[0] - scores[1]) < 0.5


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_way_of_training(partition, posterior):
    model = vae(device="cuda", partition=partition, posterior=posterior, max_iter=3).fit(X_IRIS)
    assert np.isfinite(model.score(X_IRIS))
    assert np.isfinite(model.reconstruct(X_IRIS)).all()
    assert np.isfinite(model.sample(5)).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(sampler):
    model = rbm(device="cuda", sampler=sampler, partition="persistent", max_iter=3).fit(X_IRIS)
    assert np.isfinite(model.score(X_IRIS))


def test_binary_rows():
    X = (X_IRIS - X_IRIS.min(axis=0)) / np.ptp(X_IRIS, axis=0)
    model = vae(likelihood="bernoulli", device="cuda").fit(X)
    on_gpu = model.score_samples(X)
    assert_allclose(model.set_params(device="cpu").score_samples(X), on_gpu, rtol=1e-10)
    assert set(np.unique(model.sample(20))) <= {0.0, 1.0}


def test_reproducible_and_global_generators_untouched():
    before = states()
    first, second = (vae(device="cuda").fit(X_IRIS).score_samples(X_IRIS) for _ in range(2))
    assert_allclose(first, second, rtol=1e-3)
    model = vae(device="cuda", partition="persistent").fit(X_IRIS)
    model.sample(3)
    model.score(X_IRIS)
    for new, old in zip(states(), before, strict=True):
        assert_array_equal(new, old)


def test_auto_takes_the_gpu_and_leaves_the_model_on_the_cpu():
    torch.cuda.reset_peak_memory_stats()
    used = torch.cuda.max_memory_allocated()
    model = vae(device="auto").fit(X_IRIS)
    assert torch.cuda.max_memory_allocated() > used
    assert all(tensor.device.type == "cpu" for tensor in model.module_.parameters())
    assert all(tensor.device.type == "cpu" for tensor in model.prior_.density_.parameters())


@pytest.mark.filterwarnings("error::RuntimeWarning")  # what a step that is not recorded gives
@pytest.mark.parametrize("partition", ["exact", "persistent", "posterior"])
def test_steps_recorded_as_a_cuda_graph_train_the_same(partition):
    X = np.random.default_rng(0).normal(size=(600, 3))
    models = [
        vae(
            device="cuda", partition=partition, batch_size=64, max_iter=20, cuda_graph=cuda_graph
        ).fit(X)
        for cuda_graph in (False, True)
    ]
    objectives = [model.history_["objective"] for model in models]
    # The same draws; sums on a GPU come in changing order, and training multiplies the rounding.
    assert_allclose(objectives[0][:5], objectives[1][:5], rtol=1e-3, atol=1e-3)
    assert abs(models[0].score(X) - models[1].score(X)) < 0.05


def test_a_step_that_cannot_be_recorded_is_made_all_the_same():
    prior = GaussianBernoulliRBMPrior(6, sampler="exact", partition="persistent")
    model = vae(device="cuda", prior=prior, cuda_graph=True, max_iter=30)
    with pytest.warns(RuntimeWarning, match="CUDA graph"):
        model.fit(np.random.default_rng(0).normal(size=(600, 3)))
    assert np.isfinite(model.score(X_IRIS[:, :3]))


def test_device_that_is_not_there():
    with pytest.raises(ValueError, match=r"device='cuda:99'"):
        vae(device="cuda:99").fit(X_IRIS)
