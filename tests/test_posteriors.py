"""Laws that every approximate posterior obeys, and the closed forms of those that have one."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Independent, Normal

from skevae.networks import UNIT_SHIFT
from skevae.posteriors import POSTERIORS, DiagonalNormal, FixedNormal

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
D = 2


def normals(*shape, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=dtype)


@pytest.fixture(params=POSTERIORS)
def posterior(request):
    return POSTERIORS[request.param]().double()


@pytest.fixture
def outputs(posterior):
    """Encoder outputs of 5 rows."""
    return normals(5, posterior.outputs_per_latent * D)


def raw_scale(scale):
    """What the encoder has to return for a scale."""
    return math.log(math.expm1(scale)) - UNIT_SHIFT


# --- every posterior ------------------------------------------------------------------------------


def test_density_integrates_to_one(posterior, outputs, plane_grid):
    nodes, area = plane_grid(reach=30.0, n_nodes=1201)
    mass = posterior.pairwise_log_density(nodes, outputs).exp().sum(0) * area
    torch.testing.assert_close(mass, torch.ones(5).double(), rtol=0, atol=1e-9)


def test_moments_are_those_of_the_density(posterior, outputs, plane_grid):
    nodes, area = plane_grid(reach=30.0, n_nodes=1201)
    p = posterior.pairwise_log_density(nodes, outputs).exp() * area
    mean = p.T @ nodes
    torch.testing.assert_close(posterior.mean(outputs), mean, rtol=0, atol=1e-8)
    variance = p.T @ nodes**2 - mean**2
    torch.testing.assert_close(posterior.variance(outputs), variance, rtol=0, atol=1e-7)


def test_mean_is_that_of_the_draws(posterior, outputs, assert_mean):
    z, _ = posterior.draw(outputs, normals(20_000, 5, D))
    assert_mean(z, posterior.mean(outputs))


def test_variance_is_that_of_the_draws(posterior, outputs, assert_mean):
    z, _ = posterior.draw(outputs, normals(20_000, 5, D, seed=1))
    assert_mean((z - posterior.mean(outputs)).square(), posterior.variance(outputs))


def test_density_of_a_draw_is_the_density_where_it_fell(posterior, outputs):
    z, log_density = posterior.draw(outputs, normals(4, 5, D))
    for draw, value in zip(z, log_density, strict=True):
        at_own_row = posterior.pairwise_log_density(draw, outputs).diagonal()
        torch.testing.assert_close(value, at_own_row, rtol=0, atol=1e-11)


def test_pairwise_density_is_a_loop_over_pairs(posterior, outputs):
    z = normals(3, D, seed=2)
    table = posterior.pairwise_log_density(z, outputs)
    assert table.shape == (3, 5)
    for i in range(3):
        for j in range(5):
            pair = posterior.pairwise_log_density(z[i : i + 1], outputs[j : j + 1])
            torch.testing.assert_close(table[i, j], pair[0, 0], rtol=1e-12, atol=1e-12)


def test_shared_noise_is_the_same_noise_for_each_row(posterior, outputs):
    noise = normals(4, 1, D)
    shared = posterior.draw(outputs, noise)
    repeated = posterior.draw(outputs, noise.expand(4, 5, D).contiguous())
    assert shared[0].shape == (4, 5, D) and shared[1].shape == (4, 5)
    for a, b in zip(shared, repeated, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)


def test_rows_do_not_see_each_other(posterior, outputs):
    noise = normals(4, 5, D)
    z, log_density = posterior.draw(outputs, noise)
    alone, its_density = posterior.draw(outputs[2:3], noise[:, 2:3])
    torch.testing.assert_close(z[:, 2:3], alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_density[:, 2:3], its_density, rtol=1e-12, atol=1e-12)


def test_draws_are_differentiable_as_finite_differences_say(posterior, outputs):
    noise = normals(3, 5, D)
    assert gradcheck(lambda o: posterior.draw(o, noise), outputs.requires_grad_())


def test_pairwise_density_is_differentiable_as_finite_differences_say(posterior, outputs):
    z = normals(3, D, seed=3).requires_grad_()
    assert gradcheck(posterior.pairwise_log_density, (z, outputs.requires_grad_()))


def test_moments_take_any_leading_axes(posterior, outputs):
    stacked = outputs.reshape(5, 1, -1)
    for moment in (posterior.mean, posterior.variance):
        torch.testing.assert_close(moment(stacked), moment(outputs).reshape(5, 1, D))


@pytest.mark.parametrize("extreme", [-1e4, 1e4])
def test_extreme_outputs_stay_finite(posterior, outputs, extreme):
    far = torch.full_like(outputs, extreme)
    z, log_density = posterior.draw(far, normals(3, 5, D))
    assert torch.isfinite(z).all() and torch.isfinite(log_density).all()
    assert (posterior.variance(far) > 0).all()


@pytest.mark.parametrize("kind", POSTERIORS)
def test_float32_pairs_are_as_sharp_as_float32_draws(kind):
    """What the pooled estimate of ln Z rests on in training: each draw under its own row.

    In float32 z lies up to eps |z| beside the point that its noise stands for; for a scale s that
    moves ln q by |noise| eps |z| / s, and this must be all that is lost.
    """
    posterior, eps = POSTERIORS[kind](), torch.finfo(torch.float32).eps
    mean = 2 * normals(20, 8, dtype=torch.float32)
    k = posterior.outputs_per_latent
    outputs = torch.cat([mean, *[torch.full_like(mean, raw_scale(1e-2))] * (k - 1)], dim=1)
    noise = normals(1, 20, 8, seed=1, dtype=torch.float32)
    z, log_density = posterior.draw(outputs, noise)
    paired = posterior.pairwise_log_density(z[0], outputs).diagonal()
    scale = posterior.variance(outputs).sqrt()
    reach = posterior.mean(outputs).abs() + z[0].abs()
    bound = (noise[0].abs() * reach / scale + noise[0].square() + scale.log().abs() + 1).sum(1)
    assert ((paired - log_density[0]).abs() <= 8 * eps * bound).all()


# --- closed forms ---------------------------------------------------------------------------------


def test_fixed_posterior_is_a_normal_of_unit_variance():
    outputs, z = normals(5, D), normals(7, D, seed=1)
    law = Independent(Normal(outputs, 1.0), 1)
    density = FixedNormal().pairwise_log_density(z, outputs)
    torch.testing.assert_close(density, law.log_prob(z[:, None]), rtol=1e-12, atol=1e-12)


def diagonal_law(outputs):
    mean, raw = outputs[:, :D], outputs[:, D:]
    # An untrained encoder, which returns about 0, starts at unit scale.
    scale = torch.log1p((math.e - 1) * raw.exp())
    return Independent(Normal(mean, scale), 1)


def test_diagonal_posterior_is_a_normal_with_a_scale_for_each_latent():
    outputs, z = normals(5, 2 * D), normals(7, D, seed=1)
    expected = diagonal_law(outputs).log_prob(z[:, None])
    density = DiagonalNormal().pairwise_log_density(z, outputs)
    # The lower bound of the scale, 1e-5, moves ln q by that much relative to the scale.
    torch.testing.assert_close(density, expected, rtol=1e-4, atol=1e-4)


def test_diagonal_draws_have_the_density_of_that_normal():
    outputs = normals(5, 2 * D)
    z, log_density = DiagonalNormal().draw(outputs, normals(3, 5, D))
    expected = diagonal_law(outputs).log_prob(z)
    torch.testing.assert_close(log_density, expected, rtol=1e-4, atol=1e-4)


def test_fixed_draws_have_the_density_of_that_normal():
    outputs = normals(5, D)
    z, log_density = FixedNormal().draw(outputs, normals(3, 5, D))
    expected = Independent(Normal(outputs, 1.0), 1).log_prob(z)
    torch.testing.assert_close(log_density, expected, rtol=1e-12, atol=1e-12)
