"""Laws of the energies: their joint law with h, their conditionals, the annealing path."""

import math
from itertools import product

import pytest
import torch
from torch.autograd import gradcheck
from torch.distributions import Independent, Normal

from skevae.energies import AnnealingPath, GaussianBernoulliEnergy, standard_normal_energy

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
SIZES = [(1, 1), (2, 3), (3, 5), (5, 2)]
BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]
close = {"rtol": 1e-12, "atol": 1e-12}


def log_joint(energy, z, h):
    """-E(z, h), written out: z (n, D), h (m, H) -> (n, m)."""
    scaled = z / energy.variance
    quadratic = -0.5 * ((z - energy.visible_mean) ** 2 / energy.variance).sum(1)
    return quadratic[:, None] + scaled @ energy.weight @ h.T + h @ energy.hidden_bias


def points(n_visible, n=7, seed=0):
    source = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, n_visible, generator=source, dtype=torch.float64)


@pytest.fixture(params=SIZES, ids="{0[0]} visible {0[1]} hidden".format)
def rbm(request, make_rbm):
    return make_rbm(*request.param, norm=1.5)


# --- the RBM --------------------------------------------------------------------------------------


def test_energy_sums_the_joint_over_all_hidden_rows(rbm, mixture):
    h, _, _ = mixture(rbm)
    z = points(len(rbm.variance))
    torch.testing.assert_close(rbm(z), -log_joint(rbm, z, h).logsumexp(1), **close)


@pytest.mark.parametrize("distance", [3.0, 10.0, 1000.0])
def test_energy_keeps_float64_digits_where_hidden_units_are_all_but_decided(rbm, mixture, distance):
    h, _, _ = mixture(rbm)
    z = distance * points(len(rbm.variance))
    expected = -log_joint(rbm, z, h).logsumexp(1)
    # Terms of this size are summed; softplus(x) - x = 2e-9 at x = 20 is far above their rounding.
    size = 0.5 * ((z - rbm.visible_mean) ** 2 / rbm.variance).sum(1)
    size += log_joint(rbm, z, h).abs().amax(1)
    assert ((rbm(z) - expected).abs() <= 16 * torch.finfo(torch.float64).eps * size).all()


def test_hidden_logits_are_the_joint_with_the_unit_on_less_off(rbm):
    z, n_hidden = points(len(rbm.variance)), len(rbm.hidden_bias)
    # Hidden units do not see each other, so it may not matter which others are on.
    for others in (torch.zeros(n_hidden), torch.ones(n_hidden)):
        on = others.double().repeat(n_hidden, 1).fill_diagonal_(1)
        off = others.double().repeat(n_hidden, 1).fill_diagonal_(0)
        odds = log_joint(rbm, z, on) - log_joint(rbm, z, off)
        torch.testing.assert_close(rbm.hidden_logits(z), odds, **close)


def test_visible_conditional_is_the_joint_but_for_its_constant(rbm, mixture):
    h, log_weights, _ = mixture(rbm)
    z = points(len(rbm.variance))
    law = Independent(Normal(rbm.conditional_mean(h), rbm.variance.sqrt()), 1)
    conditional = law.log_prob(z[:, None, :])
    torch.testing.assert_close(log_joint(rbm, z, h) - log_weights, conditional, **close)


def test_hidden_machine_is_the_joint_with_z_integrated_out(rbm, mixture):
    h, log_weights, _ = mixture(rbm)
    bias, coupling, log_volume = rbm.hidden_machine()
    exponent = h @ bias + 0.5 * torch.einsum("ki,ij,kj->k", h, coupling, h)
    torch.testing.assert_close(log_volume + exponent, log_weights, **close)


def test_hidden_machine_is_what_quadrature_over_z_leaves(make_rbm, mixture, plane_grid):
    energy = make_rbm(2, 3, norm=1.5)
    h, _, _ = mixture(energy)
    nodes, area = plane_grid()
    integral = log_joint(energy, nodes, h).logsumexp(0) + math.log(area)
    bias, coupling, log_volume = energy.hidden_machine()
    exponent = h @ bias + 0.5 * torch.einsum("ki,ij,kj->k", h, coupling, h)
    torch.testing.assert_close(integral, log_volume + exponent, rtol=0, atol=1e-10)


def test_coupling_of_the_hidden_machine_is_symmetric(rbm):
    _, coupling, _ = rbm.hidden_machine()
    torch.testing.assert_close(coupling, coupling.mT, rtol=1e-14, atol=0)


def test_energy_without_hidden_weights_is_a_normal():
    mean, variance = torch.tensor([0.5, -2.0]).double(), torch.tensor([0.3, 4.0]).double()
    energy = GaussianBernoulliEnergy(
        torch.zeros(2, 3).double(), torch.zeros(3).double(), mean, variance
    )
    z = points(2)
    law = Independent(Normal(mean, variance.sqrt()), 1)
    log_z = math.log(2 * math.pi) + 0.5 * variance.log().sum() + 3 * math.log(2)
    torch.testing.assert_close(-energy(z) - log_z, law.log_prob(z), **close)


def test_energy_never_sees_a_batch(rbm):
    z = points(len(rbm.variance), n=6)
    alone = torch.stack([rbm(row) for row in z])
    torch.testing.assert_close(rbm(z), alone, **close)
    torch.testing.assert_close(rbm(z.reshape(2, 3, -1)), alone.reshape(2, 3), **close)


def test_energy_is_unchanged_by_a_change_of_units(rbm):
    """With z, mu, sigma and W in other units, the same point has the same energy."""
    unit = torch.linspace(0.1, 10, len(rbm.variance), dtype=torch.float64)
    other = GaussianBernoulliEnergy(
        unit[:, None] * rbm.weight, rbm.hidden_bias, unit * rbm.visible_mean, unit**2 * rbm.variance
    )
    z = points(len(unit))
    torch.testing.assert_close(other(unit * z), rbm(z), **close)


def test_energy_of_far_points_stays_finite(make_rbm):
    energy = make_rbm(2, 4, norm=3.0, dtype=torch.float32)
    assert torch.isfinite(energy(torch.full((1, 2), 1e6))).all()


def test_energy_gradient_matches_finite_differences(make_rbm):
    energy = make_rbm(2, 3, norm=1.5)
    parts = (energy.weight, energy.hidden_bias, energy.visible_mean, energy.variance, points(2, 3))

    def value(weight, bias, mean, variance, z):
        return GaussianBernoulliEnergy(weight, bias, mean, variance)(z)

    assert gradcheck(value, [part.clone().requires_grad_() for part in parts])


def test_force_pulls_towards_the_mean_of_the_visible_conditional(rbm):
    """Grad E(z) = Sigma^-1 (z - E[ E[z | h] | z ]), which is Fisher's identity."""
    z = points(len(rbm.variance)).requires_grad_()
    (force,) = torch.autograd.grad(rbm(z).sum(), z)
    pull = (z - rbm.conditional_mean(rbm.hidden_logits(z).sigmoid())) / rbm.variance
    torch.testing.assert_close(force, pull, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conversion_keeps_the_parameters(rbm, dtype):
    converted = rbm.to(dtype)
    z = points(len(rbm.variance)).to(dtype)
    assert converted(z).dtype == dtype
    bound = 64 * torch.finfo(dtype).eps * (1 + rbm(z.double()).abs().max() + z.abs().max() ** 2)
    assert (converted(z) - rbm(z.double())).abs().max() <= bound


# --- the annealing path ---------------------------------------------------------------------------


@pytest.fixture
def path(rbm):
    n_visible = len(rbm.variance)
    mean = torch.linspace(-1, 1, n_visible, dtype=torch.float64)
    variance = torch.linspace(0.5, 3, n_visible, dtype=torch.float64)
    return AnnealingPath(rbm, mean, variance)


def log_f(path, beta, z):
    """ln f_beta(z), as section 2.2 of the design writes it."""
    target = path.target
    base = ((z - path.base_mean) ** 2 / path.base_variance).sum(1)
    own = ((z - target.visible_mean) ** 2 / target.variance).sum(1)
    logits = (z / target.variance) @ target.weight + target.hidden_bias
    hidden = torch.log1p(torch.exp(beta * logits)).sum(1)
    return -0.5 * (1 - beta) * base - 0.5 * beta * own + hidden


def test_energy_along_the_path_is_f_beta_but_for_a_constant(path):
    z = points(len(path.base_mean))
    for beta in BETAS:
        constant = path.at(beta)(z) + log_f(path, beta, z)
        torch.testing.assert_close(constant, constant[:1].expand_as(constant), **close)


def test_path_ends_at_the_target(path):
    z = points(len(path.base_mean))
    torch.testing.assert_close(path.at(1.0)(z), path.target(z), **close)


def test_path_begins_at_the_base_with_free_hidden_units(path):
    start = path.at(0.0)
    z = points(len(path.base_mean))
    torch.testing.assert_close(
        start.conditional_mean(torch.ones_like(start.hidden_bias)), path.base_mean
    )
    torch.testing.assert_close(start.variance, path.base_variance)
    assert (start.hidden_logits(z) == 0).all()


def test_increment_is_the_difference_of_log_f(path):
    z = points(len(path.base_mean))
    for beta_from, beta_to in product(BETAS, BETAS):
        difference = log_f(path, beta_to, z) - log_f(path, beta_from, z)
        torch.testing.assert_close(path.log_increment(z, beta_from, beta_to), difference, **close)


def test_increments_telescope(path):
    z = points(len(path.base_mean))
    betas = [0.0, 0.03, 0.4, 0.41, 0.9, 1.0]
    steps = [path.log_increment(z, a, b) for a, b in zip(betas, betas[1:], strict=False)]
    torch.testing.assert_close(sum(steps), path.log_increment(z, 0.0, 1.0), **close)


def test_log_base_partition_is_the_quadrature_of_f_0(make_rbm, plane_grid):
    variance = torch.tensor([0.7, 2.0], dtype=torch.float64)
    path = AnnealingPath(make_rbm(2, 5), torch.tensor([1.0, -1.0], dtype=torch.float64), variance)
    nodes, area = plane_grid()
    integral = log_f(path, 0.0, nodes).logsumexp(0) + math.log(area)
    assert path.log_base_partition().item() == pytest.approx(integral.item(), abs=1e-10)


# --- N(0, I) --------------------------------------------------------------------------------------


def test_standard_normal_energy_is_its_log_density_but_for_the_constant():
    z = points(3)
    law = Independent(Normal(torch.zeros(3).double(), 1.0), 1)
    constant = 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(-standard_normal_energy(z) - constant, law.log_prob(z), **close)


def test_mean_energy_is_the_mean_with_the_gradient_of_autograd(make_rbm, generator):
    rbm = make_rbm(4, 3, seed=1)
    z = torch.randn(7, 4, generator=generator(), dtype=torch.float64)
    parameters = [rbm.weight, rbm.hidden_bias, rbm.visible_mean, rbm.variance]
    for parameter in parameters:
        parameter.requires_grad_()
    plain = torch.autograd.grad(3 * rbm(z).mean(), parameters)
    closed = torch.autograd.grad(3 * rbm.mean(z), parameters)
    torch.testing.assert_close(rbm.mean(z), rbm(z).mean(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(closed, plain, rtol=1e-12, atol=1e-13)


def test_mean_energy_gradient_matches_finite_differences(make_rbm, generator, assert_gradient):
    rbm = make_rbm(4, 3, seed=2)
    z = torch.randn(7, 4, generator=generator(1), dtype=torch.float64)
    parameters = [rbm.weight, rbm.hidden_bias, rbm.visible_mean, rbm.variance]
    assert_gradient(lambda: rbm.mean(z), [parameter.requires_grad_() for parameter in parameters])
