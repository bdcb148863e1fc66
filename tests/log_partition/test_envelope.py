"""Laws of the envelope of an RBM: above the density, and intervals that contain ln Z."""

import math

import pytest
import torch

from skevae.densities import gaussian_bernoulli
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.energies import GaussianBernoulliEnergy
from skevae.log_partition.envelope import (
    MISS_PROBABILITY,
    Envelope,
    certified_interval,
    make_envelope,
    mean_bounds,
    whitened,
)
from skevae.log_partition.exact import exact_log_partition
from skevae.utils.random import make_generator

SEEDS = range(16)


def hard_energy(seed, bias_scale=1.0):
    """An RBM whose columns of W are 5 to 8 sigma long: modes that no short chain connects."""
    generator = make_generator(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n_hidden, n_visible = 6 + seed % 7, 2 + seed % 4
    length = 5 + 3 * torch.rand(n_hidden, generator=generator, dtype=torch.float64)
    weight = normal(n_visible, n_hidden)
    weight = weight / weight.norm(dim=0) * length
    half = torch.rand(n_hidden, generator=generator, dtype=torch.float64) / 2
    bias = bias_scale * normal(n_hidden) - half * weight.square().sum(0)
    variance = normal(n_visible).exp()
    return GaussianBernoulliEnergy(
        weight * variance.sqrt()[:, None], bias, normal(n_visible), variance
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bias_scale", [1.0, 3.0])
def test_the_mass_is_an_upper_bound_and_the_interval_contains_ln_z(seed, bias_scale):
    energy = hard_energy(seed, bias_scale)
    exact = exact_log_partition(energy).item()
    slopes, intercepts, log_volume = whitened(energy)
    n_hidden = len(intercepts)
    for n_exact in (0, n_hidden // 2, n_hidden):
        envelope = make_envelope(slopes, intercepts, n_exact, make_generator(seed))
        assert (envelope.log_mass + log_volume).item() > exact - 1e-8
    # With all units taken exactly the envelope is the density.
    assert (envelope.log_mass + log_volume).item() == pytest.approx(exact, abs=1e-8)
    assert (envelope.log_ratios(100, make_generator(0)) == 0).all()
    low, high = certified_interval(energy, make_generator(seed), n_exact=n_hidden // 2, width=0.05)
    assert low - 1e-8 <= exact <= high + 1e-8


def test_the_mass_is_the_integral_of_the_envelope(plane_grid):
    nodes, area = plane_grid()
    generator = make_generator(0)
    slopes = 0.5 * torch.randn((2, 5), generator=generator, dtype=torch.float64)
    intercepts = torch.randn(5, generator=generator, dtype=torch.float64)
    contact = torch.linspace(2, 6, 5, dtype=torch.float64)
    exact = torch.tensor([True, False, False, True, False])
    x = intercepts + nodes.double() @ slopes
    parabola = torch.tanh(contact / 2) / (4 * contact) * (x.square() - contact.square())
    parabola = parabola + 0.5 * (x - contact) + torch.nn.functional.softplus(contact)
    softplus = torch.nn.functional.softplus(x)
    assert (parabola - softplus > -1e-12).all()
    units = torch.where(exact, softplus, parabola).sum(1)
    log_mass = (units - 0.5 * nodes.double().square().sum(1)).logsumexp(0) + math.log(area)
    envelope = Envelope(slopes, intercepts, exact, contact)
    assert envelope.log_mass.item() == pytest.approx(log_mass.item(), abs=1e-4)


def test_weights_have_the_mean_that_the_interval_is_made_of():
    energy = hard_energy(1)
    slopes, intercepts, log_volume = whitened(energy)
    envelope = make_envelope(slopes, intercepts, 3, make_generator(0))
    weights = envelope.log_ratios(200_000, make_generator(1)).sum(1).exp()
    expected = math.exp(exact_log_partition(energy).item() - (envelope.log_mass + log_volume))
    error = weights.std().item() / math.sqrt(len(weights))
    assert abs(weights.mean().item() - expected) < 4 * error


def test_tightening_lowers_the_mass_to_its_minimum():
    slopes, intercepts, _ = whitened(hard_energy(3))
    envelope = make_envelope(slopes, intercepts, 2, make_generator(0))
    for factor in (0.9, 1.1):
        moved = envelope.touching_at(envelope.contact * factor)
        assert moved.log_mass > envelope.log_mass - 1e-3


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.9])
def test_bounds_of_a_mean_hold_as_often_as_they_promise(probability):
    n, miss, n_trials = 2000, 0.05, 2000
    generator = make_generator(0)
    uniform = torch.rand((n_trials, n), generator=generator, dtype=torch.float64)
    totals = (uniform < probability).double().sum(1)
    bounds = [mean_bounds(total, total, n, miss) for total in totals]
    missed = sum(not low <= probability <= high for low, high in bounds) / n_trials
    # Twice the promise, for both sides, and four standard errors.
    assert missed <= 2 * miss + 4 * math.sqrt(2 * miss / n_trials)
    assert MISS_PROBABILITY <= 1e-3


def test_a_density_too_large_for_exactness_is_certified():
    density = GaussianBernoulliDensity(8, 50, generator=make_generator(0), initial_scale=0.5)
    interval = density.double().log_partition_interval(make_generator(1))
    assert interval.is_certified
    assert 0 < interval.high - interval.low <= 0.1
    again = density.log_partition_interval(make_generator(2))
    assert again.low <= interval.high and interval.low <= again.high


def test_what_cannot_be_certified_is_said_to_be_an_estimate(monkeypatch):
    monkeypatch.setattr(gaussian_bernoulli, "BURN_IN_STEPS", 50)
    monkeypatch.setattr(gaussian_bernoulli, "N_ANNEALED_INTERVALS", 1)
    density = GaussianBernoulliDensity(6, 60, generator=make_generator(0), initial_scale=3.0)
    interval = density.double().log_partition_interval(make_generator(0))
    assert not interval.is_certified
    energy = density.as_energy().to(torch.float64)
    certified = certified_interval(energy, make_generator(0), n_exact=24, width=0.1)
    assert certified.high - certified.low > 0.1
    # The certified end holds all the same.
    assert interval.high <= certified.high
    assert interval.low >= certified.low
