"""Contrastive chains of an importance-weighted bound start at draws resampled by the weights."""

import pytest
import torch

from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.densities.normal import StandardNormalDensity
from skevae.partitions import PARTITIONS
from skevae.partitions.chains import resampled
from skevae.posteriors.draws import LatentDraws
from skevae.posteriors.normal import DiagonalNormal
from skevae.utils.random import make_generator

D = 2
UNWEIGHTED = [name for name in PARTITIONS if name != "contrastive"]


def make_density(**params):
    density = GaussianBernoulliDensity(
        D, 3, generator=make_generator(0), initial_scale=1.5, **params
    ).double()
    with torch.no_grad():
        density.hidden_bias.copy_(torch.tensor([0.3, -0.5, 0.1]))
    return density


def make_draws(density, n_draws, n_rows, *, scale=2.5, seed=1):
    """Draws of one broad normal for every row, in the form of posteriors' draws."""
    source = make_generator(seed)
    noise = torch.randn((n_draws, n_rows, D), generator=source, dtype=torch.float64)
    raw_scale = torch.full((n_rows, D), scale).double().expm1().log()
    outputs = torch.cat([torch.zeros(n_rows, D).double(), raw_scale], dim=1)
    posterior = DiagonalNormal(D)
    z, log_posterior = posterior.draw(outputs, noise)
    with torch.no_grad():
        energy = density.energy(z)
    return LatentDraws(torch.zeros_like(energy), energy, log_posterior, z, outputs), posterior


def mean_energy_gradient(density, z, weights):
    """Gradient of the weighted mean energy, all parameters in one vector."""
    parameters = [p for p in density.parameters() if p.requires_grad]
    loss = (weights * density.energy(z)).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def surrogate_gradient(density, value):
    parameters = [p for p in density.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])


def total_gradients(density, draws, posterior, log_weights, shares, n_runs):
    """Gradient of mean energy + ln Z, as the loss has them, for several seeds of the chains."""
    positive = mean_energy_gradient(density, draws.z, shares)
    runs = []
    for seed in range(n_runs):
        estimate = PARTITIONS["contrastive"](density, make_generator(100 + seed))
        estimate.reference = 0.0
        value = estimate(draws, posterior, log_weights)
        runs.append(positive + surrogate_gradient(density, value))
    return torch.stack(runs)


def shares_of(log_weights):
    return log_weights.softmax(0) / log_weights.shape[1]


class Still:
    """A transition that goes nowhere."""

    def __call__(self, z, generator):
        return z

    def state(self):
        return {}


def test_without_a_transition_positive_and_negative_phase_cancel(assert_mean, monkeypatch):
    """The starts have the law of the weighted draws, whatever the weights."""
    density = make_density()
    draws, posterior = make_draws(density, 8, 50)
    log_weights = torch.randn((8, 50), generator=make_generator(5), dtype=torch.float64) * 2
    monkeypatch.setattr(density, "make_transition", Still)
    shares = shares_of(log_weights)
    weighted = total_gradients(density, draws, posterior, log_weights, shares, 400)
    assert_mean(weighted, torch.zeros(weighted.shape[1]))
    # Unweighted starts leave a gradient where there is nothing to learn.
    unweighted = total_gradients(density, draws, posterior, None, shares, 1)
    assert unweighted.abs().max() > 20 * weighted.std(0).max() / 400**0.5


@pytest.mark.parametrize("sampler", ["gibbs", "metropolis-langevin"])
def test_the_expected_gradient_vanishes_where_the_model_is_right(sampler, assert_mean):
    """Weighted draws of the model's own law; a transition leaves it unchanged."""
    density = make_density(sampler=sampler)
    draws, posterior = make_draws(density, 2000, 20)
    log_weights = -draws.energy - draws.log_posterior
    shares = shares_of(log_weights)
    weighted = total_gradients(density, draws, posterior, log_weights, shares, 60)
    # Weights are normalised over 2000 draws of a row, which leaves a bias and the noise of rows.
    unweighted = total_gradients(density, draws, posterior, None, shares, 3)
    assert weighted.mean(0).abs().max() < 0.02
    assert unweighted.mean(0).abs().max() > 0.3


def test_resampling_repeats_draws_by_their_weights(assert_mean):
    z = torch.arange(4.0)[:, None, None].expand(4, 3, 1).double()
    weights = torch.tensor([[0.5, 0.0, 0.25], [0.5, 0.0, 0.25], [0.0, 1.0, 0.25], [0, 0, 0.25]])
    starts = resampled(z, weights.double().log(), make_generator(0))[..., 0]
    assert starts[:, 0].tolist() == [0, 0, 1, 1]
    assert starts[:, 1].tolist() == [2, 2, 2, 2]
    assert starts[:, 2].tolist() == [0, 1, 2, 3]
    uneven = torch.tensor([0.1, 0.15, 0.3, 0.45]).double()[:, None].expand(4, 5000)
    counts = resampled(z[:, :1].expand(4, 5000, 1), uneven.log(), make_generator(1))[..., 0]
    for k in range(4):
        assert_mean((counts == k).double().mean(0), uneven[k, 0])


def test_resampling_survives_a_diverging_run():
    z = torch.randn(3, 2, D, generator=make_generator(0))
    assert resampled(z, torch.full((3, 2), torch.nan), make_generator(0)).shape == z.shape


@pytest.mark.parametrize("kind", UNWEIGHTED)
def test_weights_do_not_matter_to_other_estimates(kind):
    density = StandardNormalDensity(D).double()
    draws, posterior = make_draws(density, 4, 5)
    values = [
        PARTITIONS[kind](density, make_generator(0))(draws, posterior, log_weights)
        for log_weights in (None, torch.randn(4, 5).double())
    ]
    assert torch.equal(*values)


def test_without_weights_chains_start_at_the_draws_themselves():
    density = make_density()
    draws, posterior = make_draws(density, 4, 5)
    gradients = []
    for call in (lambda e: e(draws, posterior), lambda e: e.evaluate(draws.z.flatten(0, 1))):
        estimate = PARTITIONS["contrastive"](density, make_generator(0))
        estimate.reference = 0.0
        gradients.append(surrogate_gradient(density, call(estimate)))
    assert torch.equal(*gradients)


def test_what_needs_a_posterior_says_so():
    assert [name for name, kind in PARTITIONS.items() if kind.needs_posterior] == [
        "posterior",
        "aggregate",
    ]
