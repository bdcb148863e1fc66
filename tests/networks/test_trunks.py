"""Laws of the trunks."""

import math
import pickle

import pytest
import torch
from torch import nn

from skevae.networks import NETWORKS
from skevae.networks.build import build_network
from skevae.networks.densenet import DenselyConnected
from skevae.networks.layers import ACTIVATIONS, Linear, WeightNormLinear
from skevae.networks.scales import positive
from skevae.utils.random import lent_globals, make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
WEIGHT_NORMS = pytest.mark.parametrize("weight_norm", [False, True])
KINDS = pytest.mark.parametrize("network", NETWORKS)

# What each activation makes of 0.7, in closed form.
AT_SEVEN_TENTHS = {
    "silu": 0.7 / (1 + math.exp(-0.7)),
    "relu": 0.7,
    "gelu": 0.35 * (1 + math.erf(0.7 / math.sqrt(2))),
    "elu": 0.7,
    "tanh": math.tanh(0.7),
    "logistic": 1 / (1 + math.exp(-0.7)),
    "identity": 0.7,
}


def build(network, sizes=(5, 4), activation="silu", weight_norm=False, seed=0):
    kind = NETWORKS[network](activation=activation, weight_norm=weight_norm)
    return build_network(kind, 3, 2, sizes, make_generator(seed)).double()


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@KINDS
@WEIGHT_NORMS
def test_trunk_maps_the_last_axis_and_no_other(network, weight_norm):
    for sizes in [(), (5,), (5, 4), (7, 7, 7)]:
        trunk = build(network, sizes, weight_norm=weight_norm)
        for shape in [(3,), (6, 3), (2, 6, 3)]:
            x = inputs(*shape)
            rows = torch.stack([trunk(row) for row in x.reshape(-1, 3)]).reshape(*shape[:-1], 2)
            torch.testing.assert_close(trunk(x), rows)


@KINDS
@WEIGHT_NORMS
def test_trunk_is_determined_by_the_seed_of_its_construction(network, weight_norm):
    x = inputs(4, 3)
    here, again, other = (build(network, weight_norm=weight_norm, seed=s)(x) for s in (1, 1, 2))
    assert torch.equal(here, again) and not torch.equal(here, other)


@KINDS
@WEIGHT_NORMS
def test_trunk_survives_pickling(network, weight_norm):
    trunk = build(network, weight_norm=weight_norm)
    x = inputs(4, 3)
    assert torch.equal(pickle.loads(pickle.dumps(trunk))(x), trunk(x))


@KINDS
@WEIGHT_NORMS
def test_every_parameter_has_a_say(network, weight_norm):
    trunk = build(network, weight_norm=weight_norm)
    trunk(inputs(20, 3)).square().sum().backward()
    # A weight-normalised weight has no gradient along itself, but it has one.
    assert all(parameter.grad.abs().max() > 0 for parameter in trunk.parameters())


@KINDS
def test_without_hidden_layers_a_trunk_is_affine(network):
    trunk = build(network, sizes=())
    x, y = inputs(2, 6, 3)
    torch.testing.assert_close(trunk((x + y) / 2), (trunk(x) + trunk(y)) / 2)


@KINDS
def test_with_the_identity_activation_a_trunk_is_affine(network):
    trunk = build(network, activation="identity")
    x, y = inputs(2, 6, 3)
    torch.testing.assert_close(trunk((x + y) / 2), (trunk(x) + trunk(y)) / 2)


@KINDS
def test_weight_normalisation_does_not_change_the_initial_function(network):
    x = inputs(4, 3)
    plain, normalised = (build(network, weight_norm=flag) for flag in (False, True))
    torch.testing.assert_close(normalised(x), plain(x), rtol=1e-5, atol=1e-6)


@KINDS
def test_a_trunk_without_weight_normalisation_has_plain_layers(network):
    linear = [m for m in build(network).modules() if isinstance(m, nn.Linear)]
    assert {type(layer) for layer in linear} == {Linear}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_is_the_function_of_its_name(activation):
    value = ACTIVATIONS[activation]()(torch.tensor(0.7, dtype=torch.float64)).item()
    assert value == pytest.approx(AT_SEVEN_TENTHS[activation], rel=1e-12)


@KINDS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_trunk_uses_its_activation_once_for_each_hidden_layer(network, activation):
    kinds = [type(module) for module in build(network, (5, 4, 3), activation).modules()]
    assert kinds.count(ACTIVATIONS[activation]) == 3


def test_users_callable_builds_the_module():
    built = []

    def mine(n_inputs, n_outputs, hidden_layer_sizes):
        built.append(nn.Linear(n_inputs, n_outputs))
        return built[-1]

    assert build_network(mine, 3, 2, (), make_generator(0)) is built[0]


def test_users_callable_draws_from_the_generator():
    def mine(n_inputs, n_outputs, hidden_layer_sizes):
        return nn.Linear(n_inputs, n_outputs)

    first, again, other = (build_network(mine, 3, 2, (), make_generator(s)) for s in (1, 1, 2))
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("network", [nn.Linear(3, 3), lambda n: nn.Linear(n, n)])
def test_what_does_not_build_a_network_is_named(network):
    with pytest.raises(TypeError, match="network="):
        build_network(network, 3, 2, (), make_generator(0))


# --- weight normalisation -------------------------------------------------------------------------


def weight_normalised():
    layer = WeightNormLinear(3, 2)
    layer.initialise(make_generator(0))
    return layer.double()


def test_scaling_the_direction_changes_nothing():
    layer, x = weight_normalised(), inputs(4, 3)
    before = layer(x)
    with torch.no_grad():
        layer.weight *= torch.tensor([[7.0], [0.01]])
    torch.testing.assert_close(layer(x), before)


def test_gain_is_the_length_of_the_effective_rows():
    layer = weight_normalised()
    with torch.no_grad():
        layer.gain.copy_(torch.tensor([[2.0], [5.0]]))
    rows = layer(torch.eye(3, dtype=torch.float64)) - layer.bias
    lengths = torch.tensor([2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(rows.norm(dim=0), lengths)


# --- dense connections ----------------------------------------------------------------------------


def test_dense_trunk_is_its_layers_composed_by_hand():
    trunk = build("densenet", (5, 4))
    first, second = trunk.hidden
    x = inputs(6, 3)
    one = first(x)
    two = second(torch.cat([x, one], dim=1))
    expected = trunk.output(torch.cat([x, one, two], dim=1))
    torch.testing.assert_close(trunk(x), expected)


def test_input_reaches_the_output_of_a_dense_trunk_past_dead_layers():
    class Dead(nn.Module):
        def forward(self, x):
            return x.new_zeros(*x.shape[:-1], 4)

    with lent_globals(make_generator(0)):
        trunk = DenselyConnected([Dead(), Dead()], nn.Linear(3 + 4 + 4, 2)).double()
    x, y = inputs(2, 6, 3)
    assert not torch.equal(trunk(x), trunk(y))


# --- positive -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positive_is_one_at_zero(dtype):
    value = positive(torch.zeros(1, dtype=dtype)).item()
    assert value == pytest.approx(1.0, rel=4 * torch.finfo(dtype).eps)


def test_positive_is_positive_and_rising():
    values = positive(torch.linspace(-30, 30, 601, dtype=torch.float64))
    assert (values > 0).all() and (values.diff() > 0).all()


def test_positive_is_softplus_shifted_along_its_axis():
    """ln(1 + exp(r + s)) with exp(s) = e - 1, so exp(value) - 1 = (e - 1) exp(r)."""
    raw = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(positive(raw).expm1(), (math.e - 1) * raw.exp())
