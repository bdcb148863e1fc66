"""Laws of ln Z: the exact one, and the interval of annealed importance sampling."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck

from skevae.energies import AnnealingPath, GaussianBernoulliEnergy
from skevae.log_partition.annealing import anneal_forward, anneal_reverse, annealed_interval
from skevae.log_partition.exact import exact_log_partition
from skevae.samplers.exact import exact_sample
from skevae.samplers.gibbs import block_gibbs
from skevae.utils.log_mean import log_mean_exp, log_mean_exp_error

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


def parts(energy):
    return energy.weight, energy.hidden_bias, energy.visible_mean, energy.variance


# --- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_hidden", [1, 2, 5, 9])
@pytest.mark.parametrize("norm", [0.3, 1.0, 2.0])
def test_exact_log_partition_is_the_integral_over_the_plane(make_rbm, plane_grid, n_hidden, norm):
    energy = make_rbm(2, n_hidden, norm=norm)
    nodes, area = plane_grid(reach=30.0, n_nodes=601)
    integral = (-energy(nodes)).logsumexp(0) + math.log(area)
    assert exact_log_partition(energy).item() == pytest.approx(integral.item(), abs=1e-9)


@pytest.mark.parametrize("n_visible, n_hidden", [(1, 1), (3, 6), (20, 12), (64, 8)])
def test_exact_log_partition_is_the_sum_over_all_hidden_rows(
    make_rbm, mixture, n_visible, n_hidden
):
    energy = make_rbm(n_visible, n_hidden, norm=2.0)
    _, log_weights, _ = mixture(energy)
    value = exact_log_partition(energy).item()
    assert value == pytest.approx(log_weights.logsumexp(0).item(), rel=1e-12)


def test_exact_log_partition_is_in_the_dtype_of_the_energy(make_rbm):
    energy = make_rbm(4, 9, norm=2.0)
    single = exact_log_partition(energy.to(torch.float32))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact_log_partition(energy).item(), rel=1e-5)


def test_exact_log_partition_gradient_matches_finite_differences(make_rbm):
    inputs = [part.clone().requires_grad_() for part in parts(make_rbm(3, 4, norm=1.5))]
    assert gradcheck(lambda *p: exact_log_partition(GaussianBernoulliEnergy(*p)), inputs)


def test_gradient_of_log_partition_is_minus_the_mean_energy_gradient(make_rbm, plane_grid):
    """Grad ln Z = -E_p[grad E], the integral taken by quadrature."""
    energy = make_rbm(2, 3, norm=1.5)
    inputs = [part.clone().requires_grad_() for part in parts(energy)]
    nodes, _ = plane_grid(reach=20.0, n_nodes=401)
    p = torch.softmax(-energy(nodes), 0)
    mean_energy = (p * GaussianBernoulliEnergy(*inputs)(nodes)).sum()
    expected = torch.autograd.grad(-mean_energy, inputs)
    gradients = torch.autograd.grad(exact_log_partition(GaussianBernoulliEnergy(*inputs)), inputs)
    for gradient, truth in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shift", [-3.0, 5.0])
def test_log_partition_does_not_change_when_all_is_moved(make_rbm, shift):
    """Moving mu by d moves the density, once b absorbs what W.mu/sigma^2 gained."""
    energy = make_rbm(3, 6, norm=1.0)
    pull = (energy.weight / energy.variance[:, None]).sum(0)
    moved = GaussianBernoulliEnergy(
        energy.weight,
        energy.hidden_bias - shift * pull,
        energy.visible_mean + shift,
        energy.variance,
    )
    value, there = exact_log_partition(energy), exact_log_partition(moved)
    torch.testing.assert_close(there, value, rtol=1e-12, atol=0)


# --- the mean of exponentials ---------------------------------------------------------------------


def log_weights(*shape, scale=1.0, seed=0):
    source = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_log_mean_exp_is_the_log_of_the_mean_of_exponentials(dim):
    w = log_weights(5, 7)
    expected = np.log(np.exp(w.numpy()).mean(dim))
    np.testing.assert_allclose(log_mean_exp(w, dim), expected, rtol=1e-13)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_common_shift_moves_the_log_mean_and_not_its_error(shift):
    w = log_weights(50, 3)
    rounding = 4 * np.finfo(float).eps * abs(shift)
    torch.testing.assert_close(log_mean_exp(w + shift), log_mean_exp(w) + shift, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        log_mean_exp_error(w + shift), log_mean_exp_error(w), rtol=100 * rounding, atol=0
    )


def test_error_is_the_spread_of_the_weights_relative_to_their_mean():
    w = np.exp(log_weights(30, 40).numpy())
    expected = w.std(0, ddof=1) / w.mean(0) / np.sqrt(len(w))
    error = log_mean_exp_error(torch.log(torch.as_tensor(w)))
    np.testing.assert_allclose(error, expected, rtol=1e-12)


def test_error_predicts_the_spread_of_repeated_estimates():
    n_draws, n_repeats, scale = 1000, 4000, 0.5
    w = log_weights(n_draws, n_repeats, scale=scale)
    spread = log_mean_exp(w).std().item()
    predicted = log_mean_exp_error(w).square().mean().sqrt().item()
    # A standard deviation of n_repeats normals is known to 1 / sqrt(2 n_repeats), relatively; the
    # delta method leaves out terms of the relative variance of the mean weight.
    tolerance = 4 / math.sqrt(2 * n_repeats) + 4 * math.expm1(scale**2) / n_draws
    assert predicted == pytest.approx(spread, rel=tolerance)


def test_equal_weights_have_no_error():
    assert (log_mean_exp_error(torch.full((9, 2), -700.0, dtype=torch.float64)) < 1e-12).all()


def test_one_weight_has_an_unknown_error():
    error = log_mean_exp_error(torch.zeros(1, 4))
    assert error.shape == (4,) and torch.isinf(error).all()


# --- annealing ------------------------------------------------------------------------------------


def make_path(energy, spread=1.0):
    """From a base that is not the target's: off-centre and of another width."""
    return AnnealingPath(energy, energy.visible_mean + 0.3, spread * energy.variance)


@pytest.fixture
def energy(make_rbm):
    # Modes that overlap: where the base all but misses one, no standard error can tell.
    return make_rbm(3, 6, norm=1.0)


@pytest.fixture
def truth(energy, mixture):
    return mixture(energy)[1].logsumexp(0).item()


@pytest.mark.parametrize("n_betas", [1, 3, 10])
def test_forward_weights_are_unbiased_for_z(energy, truth, generator, assert_mean, n_betas):
    # A base wider than every conditional keeps the weights' variance finite.
    path = make_path(energy, spread=4.0)
    w, _ = anneal_forward(path, block_gibbs, generator(0), n_chains=20_000, n_betas=n_betas)
    assert_mean((w - truth).exp(), 1.0)


@pytest.mark.parametrize("n_betas", [1, 3, 10])
def test_reverse_weights_are_unbiased_for_one_over_z(
    energy, truth, generator, assert_mean, n_betas
):
    # A base narrower than every conditional keeps these finite.
    path = make_path(energy, spread=0.25)
    z = exact_sample(energy, 20_000, generator(1))
    w = anneal_reverse(path, block_gibbs, generator(0), z, n_betas=n_betas)
    assert_mean((w + truth).exp(), 1.0)


@pytest.mark.parametrize("n_betas", [1, 5, 50])
def test_log_partition_lies_between_mean_forward_and_mean_reverse(
    energy, truth, generator, n_betas
):
    path, n = make_path(energy), 4000
    forward, _ = anneal_forward(path, block_gibbs, generator(0), n_chains=n, n_betas=n_betas)
    z = exact_sample(energy, n, generator(1))
    reverse = -anneal_reverse(path, block_gibbs, generator(2), z, n_betas=n_betas)
    assert forward.mean() <= truth + 4 * forward.std() / math.sqrt(n)
    assert reverse.mean() >= truth - 4 * reverse.std() / math.sqrt(n)


def test_more_betas_bring_both_ends_closer(energy, truth, generator):
    def gap(n_betas):
        path = make_path(energy)
        forward, _ = anneal_forward(path, block_gibbs, generator(0), n_chains=2000, n_betas=n_betas)
        z = exact_sample(energy, 2000, generator(1))
        reverse = -anneal_reverse(path, block_gibbs, generator(2), z, n_betas=n_betas)
        return (reverse.mean() - forward.mean()).item()

    gaps = [gap(n_betas) for n_betas in (1, 10, 100)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.2 * gaps[0]


def test_annealed_chains_end_at_the_target(energy, generator, exact_moments, assert_mean):
    _, z = anneal_forward(make_path(energy), block_gibbs, generator(3), n_chains=5000, n_betas=100)
    mean, second = exact_moments(energy)
    assert_mean(z, mean)
    assert_mean(z[:, :, None] * z[:, None, :], second)


def without_weights(make_rbm):
    """Hidden units that are not tied to z: whatever the path, no increment depends on z."""
    energy = make_rbm(3, 6, norm=1.0)
    return GaussianBernoulliEnergy(
        torch.zeros_like(energy.weight), energy.hidden_bias, energy.visible_mean, energy.variance
    )


def test_from_a_base_that_is_the_target_every_forward_weight_is_z(make_rbm, generator):
    energy = without_weights(make_rbm)
    path = AnnealingPath(energy, energy.visible_mean, energy.variance)
    w, _ = anneal_forward(path, block_gibbs, generator(0), n_chains=50, n_betas=7)
    truth = (
        0.5 * (2 * math.pi * energy.variance).log().sum() + energy.hidden_bias.exp().log1p().sum()
    )
    torch.testing.assert_close(w, truth.expand(50), rtol=1e-12, atol=0)


def test_from_a_base_that_is_the_target_the_interval_is_a_point(make_rbm, generator, mixture):
    energy = without_weights(make_rbm)
    path = AnnealingPath(energy, energy.visible_mean, energy.variance)
    low, high = annealed_interval(
        path, block_gibbs, generator(0), lambda n, ends: ends, n_chains=20, n_betas=5
    )
    truth = mixture(energy)[1].logsumexp(0).item()
    assert low == pytest.approx(truth, rel=1e-12) and high == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("n_visible, n_hidden", [(2, 4), (16, 10)])
def test_interval_brackets_as_often_as_two_standard_errors_promise(
    make_rbm, mixture, n_visible, n_hidden
):
    energy = make_rbm(n_visible, n_hidden, norm=2.0)
    truth = mixture(energy)[1].logsumexp(0).item()
    n_runs, missed = 40, 0
    for seed in range(n_runs):
        source = torch.Generator().manual_seed(seed)
        low, high = annealed_interval(
            make_path(energy),
            block_gibbs,
            source,
            lambda n, ends, source=source: exact_sample(energy, n, source),
            n_chains=50,
            n_betas=20,
        )
        assert low <= high
        missed += not low <= truth <= high
    # Each end misses with the chance of 2 standard errors or less, being biased outwards.
    assert missed <= stats.binom.isf(stats.norm.sf(4), n_runs, 2 * stats.norm.sf(2))


def test_interval_of_a_long_run_is_narrow_and_right(make_rbm, mixture, generator):
    energy = make_rbm(16, 10, norm=1.5)
    low, high = annealed_interval(
        make_path(energy),
        block_gibbs,
        generator(0),
        lambda n, ends: block_gibbs(energy, ends, generator(1), 100),
    )
    truth = mixture(energy)[1].logsumexp(0).item()
    half_again = 0.5 * (high - low)
    assert low - half_again <= truth <= high + half_again
    assert high - low < 0.2


def test_interval_starts_reverse_chains_where_forward_chains_ended(energy, generator):
    seen = {}

    def start(n_chains, ends):
        seen.update(n=n_chains, shape=ends.shape)
        return ends

    annealed_interval(make_path(energy), block_gibbs, generator(0), start, n_chains=11, n_betas=3)
    assert seen == {"n": 11, "shape": (11, 3)}


@pytest.mark.parametrize("run", ["forward", "reverse"])
def test_annealing_is_determined_by_the_generator(energy, generator, run):
    def weights(seed):
        path, source = make_path(energy), generator(seed)
        if run == "forward":
            return anneal_forward(path, block_gibbs, source, n_chains=5, n_betas=4)[0]
        return anneal_reverse(
            path, block_gibbs, source, energy.visible_mean.repeat(5, 1), n_betas=4
        )

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
