"""What is particular to the mixture, the VampPrior, the flow and the neural energy."""

import math
import pickle
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from small_priors import small_prior
from torch import nn
from torch.distributions import Distribution

from skevae import EnergyVAE, FlowPrior, GaussianMixturePrior, NeuralPrior, VampPrior
from skevae.energies import CorrectedGaussianEnergy, GeometricPath
from skevae.log_partition.annealing import anneal_population
from skevae.samplers.langevin import MetropolisLangevin
from skevae.utils.random import make_generator

X_IRIS = load_iris().data
X_UNIT = (X_IRIS - X_IRIS.min(axis=0)) / np.ptp(X_IRIS, axis=0)


def vae(**params):
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 3, "n_draws": 2, "random_state": 0}
    return EnergyVAE(2, **{**defaults, **params})


# --- mixture --------------------------------------------------------------------------------------


def test_attributes_are_the_mixture_that_is_scored():
    model = GaussianMixturePrior(3, max_iter=10, random_state=0).fit(X_IRIS)
    formula = GaussianMixture(3, covariance_type="diag")
    formula.weights_, formula.means_ = model.weights_, model.means_
    formula.covariances_ = model.covariances_
    formula.precisions_cholesky_ = model.covariances_**-0.5
    assert_allclose(model.score_samples(X_IRIS), formula.score_samples(X_IRIS), rtol=1e-9)


def test_mixture_comes_near_to_expectation_maximisation():
    """The best of a few local optima is that of EM."""
    model = GaussianMixturePrior(3, max_iter=200, early_stopping=False)
    scores = [clone(model).set_params(random_state=s).fit(X_IRIS).score(X_IRIS) for s in range(3)]
    reference = GaussianMixture(3, covariance_type="diag", random_state=0).fit(X_IRIS)
    assert max(scores) > reference.score(X_IRIS) - 0.01


def test_more_components_than_rows():
    for kind in (GaussianMixturePrior, VampPrior):
        model = kind(20, max_iter=2, random_state=0).fit(X_IRIS[:5])
        assert np.isfinite(model.score_samples(X_IRIS)).all()


# --- VampPrior ------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["fixed", "diagonal"])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_frozen_prior_is_the_one_that_was_trained(posterior, likelihood):
    model = vae(prior=VampPrior(5), posterior=posterior, likelihood=likelihood).fit(X_UNIT)
    z = torch.randn(20, 2, generator=make_generator(0), dtype=torch.float64)
    attached = pickle.loads(pickle.dumps(model.module_)).double().density
    frozen = pickle.loads(pickle.dumps(model.prior_)).density_.double()
    # Posterior outputs are kept in float32.
    torch.testing.assert_close(frozen.energy(z), attached.energy(z), rtol=1e-4, atol=1e-4)
    assert not frozen._lent
    first, second = (density.sample(5, make_generator(1)) for density in (attached, frozen))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_prior_is_the_mean_of_the_posteriors_at_its_pseudo_inputs():
    model = vae(prior=VampPrior(5)).fit(X_IRIS)
    module = pickle.loads(pickle.dumps(model.module_)).double()
    mean, scale = module.posterior._moments(module.encoder(module.density.pseudo_inputs))
    mean, scale = mean.detach().numpy(), scale.detach().numpy()
    Z = model.transform(X_IRIS)
    parts = norm(mean, scale).pdf(Z[:, None]).prod(axis=2)
    assert_allclose(model.prior_.score_samples(Z), np.log(parts.mean(axis=1)), rtol=1e-4)


def test_encoder_is_lent_and_not_registered():
    module = vae(prior=VampPrior(5)).fit(X_IRIS).module_
    names = [name for name, _ in module.density.named_parameters()]
    assert names == ["weight_logits", "pseudo_inputs"]
    assert module.density._lent[0] is module.encoder
    again = pickle.loads(pickle.dumps(module))
    assert again.density._lent == (again.encoder, again.posterior, again.likelihood)


def test_binary_pseudo_inputs_stay_in_the_unit_interval():
    density = vae(prior=VampPrior(30), likelihood="bernoulli").fit(X_UNIT > 0.5).module_.density
    seen = density._lent[2].bound(density.pseudo_inputs)
    assert seen.min() > 0 and seen.max() < 1
    # and start at rows, not in the middle
    assert (seen - 0.5).abs().min() > 0.2


def test_pseudo_inputs_learn():
    first, last = (
        vae(prior=VampPrior(5), max_iter=n, early_stopping=False).fit(X_IRIS) for n in (1, 10)
    )
    inputs = [model.module_.density.pseudo_inputs.detach() for model in (first, last)]
    assert (inputs[0] - inputs[1]).abs().max() > 0.01


# --- flow -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["nsf", "maf"])
def test_flow_recovers_what_it_maps(flow, plane_grid):
    density = FlowPrior(2, flow=flow, hidden_layer_sizes=8).make_density(2, make_generator(0))
    density = density.double()
    z = density.sample(500, make_generator(1))
    noise = density.map()(z)
    expected = torch.randn((500, 2), generator=make_generator(1), dtype=torch.float64)
    torch.testing.assert_close(noise, expected, rtol=1e-6, atol=1e-6)
    nodes, area = plane_grid(reach=12.0)
    mass = (-density.energy(nodes)).exp().sum().item() * area
    assert mass == pytest.approx(1, abs=2e-3)


def test_without_zuko_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(ImportError, match=r'pip install "skevae\[flows\]"'):
        FlowPrior().fit(X_IRIS)


def test_torch_still_checks_the_arguments_of_distributions():
    small_prior("flow", max_iter=1, random_state=0).fit(X_IRIS)
    assert Distribution._validate_args


# --- neural energy --------------------------------------------------------------------------------


def two_modes(n_hidden=8, seed=0, scale=3.0):
    density = small_prior("neural", n_annealing_steps=200).make_density(2, make_generator(seed))
    with torch.no_grad():
        for parameter in density.network.parameters():
            parameter *= scale
    return density.double()


@pytest.mark.parametrize("seed", range(5))
def test_annealed_interval_brackets_the_integral_over_the_plane(plane_grid, seed):
    density = two_modes(seed=seed)
    nodes, area = plane_grid()
    log_mass = (-density.energy(nodes)).logsumexp(0).item() + math.log(area)
    low, high = density.log_partition_interval(make_generator(seed))
    slack = 0.5 * (high - low)
    assert low - slack < log_mass < high + slack
    assert high - low < 0.2


@pytest.mark.parametrize(
    "network", ["mlp", "densenet", "resnet", lambda n, n_outputs, sizes: nn.Linear(n, n_outputs)]
)
def test_what_the_network_adds_is_bounded(network):
    density = NeuralPrior((8,), network=network, bound=3.0).make_density(4, make_generator(0))
    with torch.no_grad():
        for parameter in density.network.parameters():
            parameter *= 100
    z = 100 * torch.randn(500, 4, generator=make_generator(1))
    correction = density.correction(z)
    assert correction.shape == (500,)
    assert correction.abs().max() <= 3
    assert correction.abs().max() > 2.9


class WithDropout(nn.Module):
    def __init__(self, n, n_outputs, hidden_layer_sizes):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(n, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, z):
        return self.layer(z)[..., 0]


def test_energy_of_one_s_own_is_a_function_of_z_alone():
    model = NeuralPrior(network=WithDropout, max_iter=2, n_annealing_steps=50, random_state=0)
    model.fit(X_IRIS)
    density = model.make_density(4, make_generator(0)).train()
    z = torch.randn(5, 4, generator=make_generator(0))
    assert torch.equal(density.energy(z), density.energy(z))


@pytest.mark.parametrize(
    "network", [lambda n, m, sizes: "no module", lambda n, m, sizes: nn.Linear(n, 3)]
)
def test_network_of_the_wrong_kind(network):
    with pytest.raises((TypeError, ValueError), match="network=.*must return"):
        NeuralPrior(network=network).fit(X_IRIS)


def test_exactness_is_refused():
    with pytest.raises(ValueError, match="partition='exact'.*no closed form"):
        NeuralPrior(partition="exact").fit(X_IRIS)


@pytest.mark.slow
def test_population_puts_the_right_mass_into_modes_no_chain_crosses(assert_mean):
    """A well of 12 nats in the middle; the right mode holds e of the left one's mass."""

    def correction(z):
        return 12 * torch.exp(-2 * z[..., 0].square()) - 0.5 * torch.tanh(4 * z[..., 0])

    one = torch.ones(1, dtype=torch.float64)
    path = GeometricPath(CorrectedGaussianEnergy(0 * one, one, correction), 0 * one, one)
    nodes = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    p = (-path.target(nodes)).softmax(0)
    truth = p[nodes[:, 0] > 0].sum()
    sampler = MetropolisLangevin(1, 0.3)
    shares = [
        (anneal_population(path, sampler, make_generator(s), n_chains=200, n_betas=100)[:, 0] > 0)
        .double()
        .mean()
        for s in range(40)
    ]
    assert_mean(torch.stack(shares), truth)


# --- rows that a fit holds out, and weights -------------------------------------------------------


@pytest.mark.parametrize("prior", [GaussianMixturePrior(100), VampPrior(100)])
def test_training_does_not_start_at_the_rows_that_are_held_out(prior):
    """With a component for each row, the bound of held-out rows would be far too high."""
    X = np.random.RandomState(0).standard_t(4, size=(120, 8))
    fitted = prior.set_params(random_state=0, max_iter=3).fit(X)
    new = np.random.RandomState(1).standard_t(4, size=(2000, 8))
    scores = fitted.score_samples(new)
    n_held_out = round(fitted.validation_fraction * len(X))
    error = scores.std() / np.sqrt(n_held_out)
    assert fitted.history_["validation"].max() < scores.mean() + 3 * error


@pytest.mark.parametrize("prior", [GaussianMixturePrior(4), VampPrior(4)])
def test_no_component_starts_at_rows_of_no_weight(prior):
    X = np.r_[np.random.RandomState(0).randn(100, 2), 50 + np.random.RandomState(1).randn(20, 2)]
    weights = np.r_[np.ones(100), np.full(20, 1e-9)]
    fitted = prior.set_params(random_state=0, max_iter=1, standardize=False)
    fitted.fit(X, sample_weight=weights)
    assert (np.abs(fitted.sample(500, random_state=0)) < 25).all()
