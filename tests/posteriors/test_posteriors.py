"""Laws that every approximate posterior obeys, and the closed forms of those that have one."""

import copy
import math
import pickle

import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Independent, MultivariateNormal, Normal

from skevae.networks.scales import UNIT_SHIFT
from skevae.posteriors import POSTERIORS, iaf
from skevae.posteriors.iaf import InverseAutoregressive, VolumePreservingInverseAutoregressive
from skevae.posteriors.normal import DiagonalNormal, FixedNormal
from skevae.utils.random import lent_globals, make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
D = 2


def normals(*shape, seed=0, dtype=torch.float64):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=dtype)


def make(kind, n_latent=D, *, stirred=True):
    """Posterior in float64, with parameters of its own (if it has any) at random."""
    with lent_globals(make_generator(0)):
        posterior = kind(n_latent).double()
    source = make_generator(0)
    with torch.no_grad():
        for parameter in posterior.parameters() if stirred else ():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source, dtype=torch.float64)
    return posterior


@pytest.fixture(params=POSTERIORS)
def posterior(request):
    return make(POSTERIORS[request.param])


@pytest.fixture
def outputs(posterior):
    """Encoder outputs of 5 rows."""
    return 0.5 * normals(5, posterior.outputs_per_latent * D)


def raw_scale(scale):
    """What the encoder has to return for a scale."""
    return math.log(math.expm1(scale)) - UNIT_SHIFT


FLOWS = {InverseAutoregressive, VolumePreservingInverseAutoregressive}


# --- every posterior ------------------------------------------------------------------------------


# For flows the grid has as many nodes as their inverse can take in a second; closed forms, being
# cheap, are held to more digits.
GRIDS = {kind: {"reach": 16.0, "n_nodes": 213} for kind in FLOWS}
CLOSED_FORM_GRID = {"reach": 30.0, "n_nodes": 1201}


def density_on_a_grid(posterior, outputs, plane_grid):
    nodes, area = plane_grid(**GRIDS.get(type(posterior), CLOSED_FORM_GRID))
    with torch.no_grad():
        return nodes, posterior.pairwise_log_density(nodes, outputs).exp() * area


def test_density_integrates_to_one(posterior, outputs, plane_grid):
    _, p = density_on_a_grid(posterior, outputs, plane_grid)
    tolerance = 1e-4 if type(posterior) in FLOWS else 1e-9
    torch.testing.assert_close(p.sum(0), torch.ones(5).double(), rtol=0, atol=tolerance)


def test_moments_are_those_of_the_density(posterior, outputs, plane_grid):
    nodes, p = density_on_a_grid(posterior, outputs, plane_grid)
    mean = p.T @ nodes
    variance = p.T @ nodes**2 - mean**2
    # Moments of flows are averages over 256 points, in units of the posterior's scale.
    errors = (1e-8, 1e-7) if type(posterior) not in FLOWS else (0.02, 0.05)
    assert ((posterior.mean(outputs) - mean).abs() <= errors[0] * variance.sqrt()).all()
    assert ((posterior.variance(outputs) - variance).abs() <= errors[1] * variance).all()


def n_draws_for(posterior):
    """So few that their standard error is above that of an average over the flows' 256 points."""
    return 1000 if type(posterior) in FLOWS else 20_000


def test_mean_is_that_of_the_draws(posterior, outputs, assert_mean):
    z, _ = posterior.draw(outputs, normals(n_draws_for(posterior), 5, D))
    assert_mean(z, posterior.mean(outputs))


def test_variance_is_that_of_the_draws(posterior, outputs, assert_mean):
    z, _ = posterior.draw(outputs, normals(n_draws_for(posterior), 5, D, seed=1))
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
    posterior, eps = make(POSTERIORS[kind], 8).float(), torch.finfo(torch.float32).eps
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
    density = FixedNormal(D).pairwise_log_density(z, outputs)
    torch.testing.assert_close(density, law.log_prob(z[:, None]), rtol=1e-12, atol=1e-12)


def diagonal_law(outputs):
    mean, raw = outputs[:, :D], outputs[:, D:]
    # An untrained encoder, which returns about 0, starts at unit scale.
    scale = torch.log1p((math.e - 1) * raw.exp())
    return Independent(Normal(mean, scale), 1)


def test_diagonal_posterior_is_a_normal_with_a_scale_for_each_latent():
    outputs, z = normals(5, 2 * D), normals(7, D, seed=1)
    expected = diagonal_law(outputs).log_prob(z[:, None])
    density = DiagonalNormal(D).pairwise_log_density(z, outputs)
    # The lower bound of the scale, 1e-5, moves ln q by that much relative to the scale.
    torch.testing.assert_close(density, expected, rtol=1e-4, atol=1e-4)


def test_diagonal_draws_have_the_density_of_that_normal():
    outputs = normals(5, 2 * D)
    z, log_density = DiagonalNormal(D).draw(outputs, normals(3, 5, D))
    expected = diagonal_law(outputs).log_prob(z)
    torch.testing.assert_close(log_density, expected, rtol=1e-4, atol=1e-4)


def test_fixed_draws_have_the_density_of_that_normal():
    outputs = normals(5, D)
    z, log_density = FixedNormal(D).draw(outputs, normals(3, 5, D))
    expected = Independent(Normal(outputs, 1.0), 1).log_prob(z)
    torch.testing.assert_close(log_density, expected, rtol=1e-12, atol=1e-12)


# --- inverse autoregressive flows -----------------------------------------------------------------

each_flow = pytest.mark.parametrize("kind", sorted(FLOWS, key=lambda kind: kind.__name__))


@each_flow
@pytest.mark.parametrize("n_latent", [1, 2, 7])
def test_an_untrained_flow_is_the_diagonal_posterior(kind, n_latent):
    flow, diagonal = make(kind, n_latent, stirred=False), DiagonalNormal(n_latent)
    outputs, noise = normals(5, 3 * n_latent), normals(4, 5, n_latent, seed=1)
    moments = outputs[:, : 2 * n_latent]  # without the context
    close = {"rtol": 1e-6, "atol": 1e-6}  # the block of noise is kept in float32
    torch.testing.assert_close(flow.mean(outputs), diagonal.mean(moments), **close)
    torch.testing.assert_close(flow.variance(outputs), diagonal.variance(moments), **close)
    z = normals(6, n_latent, seed=2)
    torch.testing.assert_close(
        flow.pairwise_log_density(z, outputs), diagonal.pairwise_log_density(z, moments)
    )
    for a, b in zip(flow.draw(outputs, noise), diagonal.draw(moments, noise), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_volume_preserving_flow_moves_draws_but_not_their_density():
    flow = make(VolumePreservingInverseAutoregressive, 5)
    outputs, noise = normals(7, 15), normals(4, 7, 5, seed=1)
    z, log_density = flow.draw(outputs, noise)
    straight, its_density = DiagonalNormal(5).draw(outputs[:, :10], noise)
    assert torch.equal(log_density, its_density)
    assert ((z - straight).abs() > 1e-3).all()


@each_flow
def test_determinant_of_a_draw_is_that_of_its_jacobian(kind):
    flow, outputs, noise = make(kind, 4), normals(1, 12), normals(4, seed=1)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: flow.draw(outputs, e[None, None])[0][0, 0], noise
    )
    log_noise = Independent(Normal(torch.zeros(4).double(), 1.0), 1).log_prob(noise)
    _, log_density = flow.draw(outputs, noise[None, None])
    torch.testing.assert_close(log_density[0, 0], log_noise - torch.logdet(jacobian).real)
    # Every latent sees all others: no entry is zero but by design of a single step.
    assert (jacobian != 0).all()


@each_flow
def test_pairs_in_many_pieces_are_the_same_pairs(kind, monkeypatch):
    flow = make(kind, 3)
    outputs, z = normals(5, 9).requires_grad_(), normals(40, 3, seed=1).requires_grad_()
    inputs = [outputs, z, *flow.parameters()]
    results = []
    for values_at_once in (iaf.VALUES_AT_ONCE, 7 * 5 * flow.width, 1):
        monkeypatch.setattr(iaf, "VALUES_AT_ONCE", values_at_once)
        table = flow.pairwise_log_density(z, outputs)
        results.append([table, *torch.autograd.grad(table.square().sum(), inputs)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@each_flow
def test_parameters_of_a_flow_are_differentiable_as_finite_differences_say(kind, assert_gradient):
    flow, outputs = make(kind, 3), normals(4, 9)
    noise, z = normals(2, 4, 3, seed=1), normals(3, 3, seed=2)

    def loss():
        draws, log_density = flow.draw(outputs, noise)
        return (draws.sin().mean() + log_density.mean()) + flow.pairwise_log_density(
            z, outputs
        ).mean()

    assert_gradient(loss, flow.parameters())


def test_flows_are_built_from_the_seed_and_can_be_copied_and_pickled():
    first, again = (make(InverseAutoregressive, 3) for _ in range(2))
    outputs, noise = normals(5, 9), normals(4, 5, 3)
    expected = first.draw(outputs, noise)
    for other in (again, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        for a, b in zip(other.draw(outputs, noise), expected, strict=True):
            assert torch.equal(a, b)


def test_looking_at_a_flow_draws_nothing():
    assert "n_hidden" in repr(make(InverseAutoregressive))  # under global_rng_untouched


def linear_model():
    """x = A z + noise: its weights, scale, and by how much a diagonal posterior's ELBO falls short.

    The best diagonal q has the true posterior's precisions P_ii; KL = (sum ln P_ii - ln det P) / 2.
    """
    A = torch.tensor([[1.0, 0.8], [0.7, 1.0], [0.6, 0.6]], dtype=torch.float64)
    scale = 0.5
    precision = torch.eye(2).double() + A.T @ A / scale**2
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    # The encoder that gives the exact mean, and those precisions, to a diagonal posterior.
    to_mean = torch.linalg.solve(precision, A.T / scale**2)
    return A, scale, gap.item(), to_mean, precision.diagonal().rsqrt()


def shortfall(posterior, outputs, x, noise):
    """ln p(x) - ELBO, averaged over rows."""
    A, scale, *_ = linear_model()
    z, log_q = posterior.draw(outputs, noise)
    log_joint = Normal(z @ A.T, scale).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    covariance = A @ A.T + scale**2 * torch.eye(3).double()
    log_p = MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x)
    return (log_p - (log_joint - log_q).mean(0)).mean()


@each_flow
def test_a_flow_closes_the_gap_that_correlation_leaves_a_diagonal_posterior(kind):
    A, scale, gap, to_mean, widths = linear_model()
    x = normals(128, 2, seed=3) @ A.T + scale * normals(128, 3, seed=4)
    raw = torch.tensor([raw_scale(width) for width in widths.tolist()], dtype=torch.float64)
    moments = torch.cat([x @ to_mean.T, raw.expand(128, 2)], dim=1)
    of_diagonal = shortfall(DiagonalNormal(2), moments, x, normals(2000, 128, 2, seed=5))
    assert of_diagonal.item() == pytest.approx(gap, rel=0.05) and gap > 0.3
    # Trained from there: the same mean, its own scale, no context.
    flow = make(kind, 2, stirred=False)
    free = moments.new_zeros(4).requires_grad_()
    optimizer = torch.optim.Adam([free, *flow.parameters()], lr=0.01)

    def outputs():
        shift = torch.cat([free, free.new_zeros(2)])
        return torch.cat([moments, torch.zeros(128, 2).double()], dim=1) + shift

    for step in range(300):
        optimizer.zero_grad()
        shortfall(flow, outputs(), x, normals(4, 128, 2, seed=100 + step)).backward()
        optimizer.step()
    with torch.no_grad():
        left = shortfall(flow, outputs(), x, normals(500, 128, 2, seed=6)).item()
    assert -0.01 < left < 0.2 * gap
