"""What the law tests share: random RBMs, their sums by hand, quadrature, and 4 standard errors."""

import numpy as np
import pytest
import torch

from skevae.energies import GaussianBernoulliEnergy


@pytest.fixture
def global_rng_untouched():
    """Hold law 9 over the whole test: the global generators end as they began."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), torch_state)
    for now, then in zip(np.random.get_state(), numpy_state, strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(now, then)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(name="generator")
def generator_factory():
    return generator


def make_rbm(n_visible, n_hidden, *, norm=1.0, seed=0, dtype=torch.float64):
    """Draw an RBM at random: columns of W have length `norm`, variances lie in [1/2, 3/2]."""
    source = np.random.default_rng([seed, n_visible, n_hidden])
    weight = source.normal(size=(n_visible, n_hidden))
    weight *= norm / np.linalg.norm(weight, axis=0)
    bias = source.normal(size=n_hidden) - 0.4 * norm**2
    mean = 0.5 * source.normal(size=n_visible)
    variance = source.uniform(0.5, 1.5, size=n_visible)
    return GaussianBernoulliEnergy(
        *(torch.as_tensor(value, dtype=dtype) for value in (weight, bias, mean, variance))
    )


@pytest.fixture(name="make_rbm")
def rbm_factory():
    return make_rbm


def mixture(energy):
    """All h, ln of the integral of exp(-E(z, h)) over z, and E[z | h]; one row for each h.

    Completing the square for each h by itself:
    ln vol + b.h + sum_i ((mu + W h)_i^2 - mu_i^2) / (2 sigma_i^2).
    """
    n_hidden = energy.hidden_bias.numel()
    codes = np.arange(2**n_hidden)
    h = torch.as_tensor((codes[:, None] >> np.arange(n_hidden)) & 1, dtype=energy.weight.dtype)
    means = energy.visible_mean + (energy.weight @ h.T).T
    squares = (means**2 - energy.visible_mean**2) / (2 * energy.variance)
    log_volume = 0.5 * torch.log(2 * torch.pi * energy.variance).sum()
    return h, log_volume + (h * energy.hidden_bias).sum(1) + squares.sum(1), means


@pytest.fixture(name="mixture")
def mixture_fixture():
    return mixture


def moments(energy):
    """Mean and second moment E[z z'] of p(z), by the sum over all h."""
    _, log_weights, means = mixture(energy)
    p = torch.softmax(log_weights, 0)[:, None]
    second = (p * means).T @ means + torch.diag(energy.variance)
    return (p * means).sum(0), second


@pytest.fixture(name="exact_moments")
def moments_fixture():
    return moments


def assert_mean(samples, truth, n_errors=4.0):
    """Hold that the mean over the first axis is `truth`, to within 4 of its standard errors."""
    samples = torch.as_tensor(samples).detach().double().numpy()
    error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    distance = np.abs(samples.mean(0) - torch.as_tensor(truth).detach().double().numpy())
    rounding = 1e-12 * np.abs(samples).max(0)
    assert (distance <= n_errors * error + rounding).all(), (
        f"off by {np.max(distance / (error + rounding + 1e-300)):.2f} standard errors"
    )


@pytest.fixture(name="assert_mean")
def assert_mean_fixture():
    return assert_mean


def plane_grid(reach=12.0, n_nodes=301):
    """Nodes of the trapezium rule on a square, (n_nodes^2, 2), and the area that each stands for.

    For a smooth function that vanishes at the edge its error falls faster than any power.
    """
    axis = torch.linspace(-reach, reach, n_nodes, dtype=torch.float64)
    nodes = torch.cartesian_prod(axis, axis)
    return nodes, float(axis[1] - axis[0]) ** 2


@pytest.fixture(name="plane_grid", scope="session")
def plane_grid_fixture():
    return plane_grid


def assert_gradient(loss, parameters, n_directions=4, seed=0):
    """Hold that autograd and central differences agree on `loss()` along random directions.

    In float64, with a step h of 1e-5: differences err by h^2 of the third derivative and by
    eps / h of the value.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    value, step, source = abs(loss().item()), 1e-5, generator(seed)
    for _ in range(n_directions):
        direction = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in parameters]
        pairs = zip(gradients, direction, strict=True)
        slope = sum((g * v).sum().item() for g, v in pairs if g is not None)
        ends = []
        for sign in (1, -2, 1):  # there, to the other side, and back
            with torch.no_grad():
                for parameter, v in zip(parameters, direction, strict=True):
                    parameter += sign * step * v
            ends.append(loss().item())
        difference = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope - difference) <= 1e-7 * (1 + abs(slope) + value)


@pytest.fixture(name="assert_gradient")
def assert_gradient_fixture():
    return assert_gradient


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
