"""Laws of devices and of copies on them."""

import copy

import pytest
import torch
from torch import nn

from skevae.utils.device import copy_to, resolve_device
from skevae.utils.random import (
    lent_globals,
    make_generator,
)

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


def test_auto_is_a_device_that_is_present():
    device = resolve_device("auto")
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    torch.empty(1, device=device)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_a_present_device_is_taken_as_it_is(device):
    assert resolve_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "xla", "hpu", "privateuseone", None])
def test_a_device_that_is_not_there_is_a_value_error_that_names_a_way_out(device):
    with pytest.raises(ValueError, match="device='auto' or device='cpu'"):
        resolve_device(device)


def test_a_device_that_holds_no_numbers_is_refused():
    with pytest.raises(ValueError, match="meta"):
        resolve_device("meta")


def test_copy_has_the_dtype_asked_for_and_leaves_the_original():
    with lent_globals(make_generator(0)):
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = copy.deepcopy(module.state_dict())
    double = copy_to(module, "cpu", torch.float64)
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    with torch.no_grad():
        for parameter in double.parameters():
            parameter.zero_()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype


def test_float64_copy_computes_the_same_function():
    with lent_globals(make_generator(0)):
        module = nn.Linear(4, 3)
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    wide = copy_to(module, "cpu", torch.float64)(x.double())
    # A dot product of 4 terms and a bias, each of size below 1.
    torch.testing.assert_close(module(x).double(), wide, rtol=0, atol=8 * 2**-23)
