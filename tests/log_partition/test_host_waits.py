"""An exact training step reads no value from the device, unless underflow is near."""

import pytest
import torch

from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.log_partition import exact, ising
from skevae.log_partition.blocks import configurations
from skevae.partitions import PARTITIONS
from skevae.utils.random import make_generator


class NoReading(torch.utils._python_dispatch.TorchDispatchMode):
    """Raises where a value is read, as a GPU would make the host wait."""

    waiting = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::item")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name().split(".")[0] in self.waiting:
            raise AssertionError(f"{function.name()} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def elsewhere(monkeypatch):
    """Let the CPU pass for a device that the host has to wait for."""
    for module in (exact, ising):
        monkeypatch.setattr(module, "reading_waits", lambda device: True)


def density(strength=1.0, n_hidden=6):
    made = GaussianBernoulliDensity(3, n_hidden, generator=make_generator(0), initial_scale=1.0)
    with torch.no_grad():
        made.weight *= strength
    return made


def frustrated(strength):
    """Units whose tables underflow: two of three pairs attract, the third repels."""
    made = density(n_hidden=9)
    with torch.no_grad():
        made.weight.zero_()
        # J = W'W over units 0, 3 and 6, one of each block.
        made.weight[:, 0] = strength * torch.tensor([1.0, 1.0, 0.0])
        made.weight[:, 3] = strength * torch.tensor([1.0, 0.0, 1.0])
        made.weight[:, 6] = strength * torch.tensor([0.0, 1.0, -1.0])
        made.hidden_bias.copy_(-0.5 * made.weight.square().sum(0))
    return made


def step(estimate):
    """Value and gradient, as a training step takes them."""
    value = estimate.evaluate(torch.zeros(1, 3))
    parameters = [p for p in estimate.density.parameters() if p.requires_grad]
    return value, *torch.autograd.grad(value, parameters)


def make_estimate(made):
    return PARTITIONS["exact"](made, make_generator(0))


def truth(made):
    energy = made.as_energy().to(torch.float64)
    bias, coupling, log_volume = energy.hidden_machine()
    h = configurations(made.n_hidden, torch.float64, torch.device("cpu"))
    return (log_volume + (h @ bias + 0.5 * ((h @ coupling) * h).sum(1)).logsumexp(0)).item()


def test_an_ordinary_step_does_not_wait(elsewhere):
    estimate = make_estimate(density())
    expected = step(estimate)
    estimate.refresh()
    with NoReading():
        values = step(estimate)
    for value, same in zip(values, expected, strict=True):
        assert torch.equal(value, same)


def test_before_the_first_epoch_every_step_is_checked(elsewhere):
    with NoReading(), pytest.raises(AssertionError, match="waits for the device"):
        step(make_estimate(density()))


def test_on_the_cpu_the_check_is_always_made():
    made = density()
    estimate = make_estimate(made)
    estimate.refresh()
    with NoReading(), pytest.raises(AssertionError, match="waits for the device"):
        step(estimate)
    assert not made.is_far_from_underflow()
    # Not even a caller that asks for no checks can lose anything there.
    strong = frustrated(60.0)
    assert strong.unchecked_log_partition().item() == strong.log_partition().item()


@pytest.mark.parametrize("strength", [1.0, 10.0, 30.0, 60.0, 300.0])
def test_steps_are_right_with_couplings_of_any_strength(elsewhere, strength):
    made = frustrated(strength)
    estimate = make_estimate(made)
    estimate.refresh()
    value, *gradients = step(estimate)
    assert value.item() == pytest.approx(truth(made), rel=1e-6)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_clearance_falls_with_the_strength_of_couplings():
    def clearance(strength):
        bias, coupling, _ = frustrated(strength).as_energy().to(torch.float64).hidden_machine()
        return ising.IsingModel(bias, coupling).clearance().item()

    values = [clearance(strength) for strength in (0.1, 10.0, 20.0, 40.0, 80.0)]
    assert values == sorted(values, reverse=True)
    assert 0.9 < values[0] <= 1.05 and values[-1] < 0


def test_an_underflow_within_an_epoch_is_reported_by_nan(elsewhere):
    made = frustrated(1.0)
    estimate = make_estimate(made)
    estimate.refresh()
    with torch.no_grad():
        made.weight *= 80.0
        made.hidden_bias *= 6400.0
    assert estimate.evaluate(torch.zeros(1, 3)).isnan()
    estimate.refresh()
    assert estimate.evaluate(torch.zeros(1, 3)).item() == pytest.approx(truth(made), rel=1e-6)


def test_draws_reuse_the_tables_of_ln_z(monkeypatch):
    bias, coupling, _ = density().as_energy().to(torch.float64).hidden_machine()
    model = ising.IsingModel(bias, coupling)
    made = []
    strip = ising._Strip
    monkeypatch.setattr(ising, "_Strip", lambda *parts: made.append(1) or strip(*parts))
    first = model.sample(50, make_generator(0))
    assert torch.equal(model.sample(50, make_generator(0)), first)
    model.moments()
    assert not made
