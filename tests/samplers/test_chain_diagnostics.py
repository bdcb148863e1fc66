"""Chain diagnostics against autoregressive chains, whose mixing is known in closed form."""

import math

import pytest
import torch

from skevae.samplers.diagnostics import chain_effective_sample_size, split_r_hat


def autoregressive(rho, n_steps, n_chains, seed=0):
    """Stationary AR(1) chains of unit variance: (n_steps, n_chains, 1)."""
    source = torch.Generator().manual_seed(seed)
    noise = torch.randn(n_steps, n_chains, 1, generator=source, dtype=torch.float64)
    chains = [noise[0]]
    for step in noise[1:]:
        chains.append(rho * chains[-1] + math.sqrt(1 - rho**2) * step)
    return torch.stack(chains)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
def test_effective_sample_size_of_autoregressive_chains(rho):
    """The variance of their mean is that of n (1 - rho) / (1 + rho) independent draws."""
    samples = autoregressive(rho, 2000, 50)
    expected = samples.shape[0] * samples.shape[1] * (1 - rho) / (1 + rho)
    assert chain_effective_sample_size(samples).item() == pytest.approx(expected, rel=0.1)


def test_effective_sample_size_never_exceeds_the_number_of_draws():
    # Antithetic chains would claim more.
    samples = autoregressive(-0.8, 1000, 10)
    assert chain_effective_sample_size(samples).item() <= 10_000


def test_chains_of_one_law_have_r_hat_one():
    assert split_r_hat(autoregressive(0.3, 4000, 20)).item() == pytest.approx(1, abs=0.005)


def test_r_hat_of_chains_apart_is_the_ratio_of_spreads():
    """Unit variance within, means 0 and 3 in equal numbers: sqrt(1 + var of the means)."""
    samples = autoregressive(0.0, 4000, 1000)
    samples[:, ::2] += 3
    assert split_r_hat(samples).item() == pytest.approx(math.sqrt(1 + 9 / 4), rel=0.01)


def test_r_hat_sees_a_drift_that_all_chains_share():
    samples = autoregressive(0.0, 1000, 10)
    samples += torch.linspace(0, 3, 1000, dtype=torch.float64)[:, None, None]
    assert split_r_hat(samples).item() > 1.2


@pytest.mark.parametrize("function", [split_r_hat, chain_effective_sample_size])
def test_shift_and_scale_do_not_matter(function):
    samples = autoregressive(0.5, 500, 5)
    torch.testing.assert_close(function(4 * samples - 8), function(samples))


def test_chains_that_stand_still():
    together = torch.ones(20, 3, 1)
    apart = together * torch.arange(3.0)[:, None]
    assert split_r_hat(together).item() == 1
    assert split_r_hat(apart).item() == math.inf
    assert chain_effective_sample_size(together).isnan().all()
