"""Laws of the products of linear layers: whichever library makes them, they are the same."""

import pytest
import torch
import torch.nn.functional as F

from skevae.networks.layers import Linear, WeightNormLinear
from skevae.utils import linear as products
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")

needs_onednn = pytest.mark.skipif(
    products._ONEDNN is None, reason="this torch has no such operator"
)

# Relative rounding of three products in a row of 128 terms each, in whatever order, in float32.
TOLERANCE = 3 * 128 * torch.finfo(torch.float32).eps


def assert_equal_but_for_rounding(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert (one - other).norm() <= TOLERANCE * other.norm()


def arguments(n_rows=(64,), n_inputs=128, n_outputs=96, dtype=torch.float32):
    """Rows, weight and bias of a layer."""
    shapes = [(*n_rows, n_inputs), (n_outputs, n_inputs), (n_outputs,)]
    return [
        torch.randn(shape, generator=make_generator(i), dtype=dtype, requires_grad=True)
        for i, shape in enumerate(shapes)
    ]


def derivatives(product, x, weight, bias):
    """Value, first and second derivatives of a curved function of the product."""
    value = product(x, weight, bias)
    first = torch.autograd.grad(value.tanh().sum(), (x, weight, bias), create_graph=True)
    second = torch.autograd.grad(sum(part.square().sum() for part in first), (x, weight, bias))
    return [value, *first, *second]


@needs_onednn
@pytest.mark.parametrize("n_rows", [(64,), (4, 16), (2, 2, 16), (1,)])
def test_onednn_makes_the_same_products_and_derivatives_of_them(n_rows):
    given = arguments(n_rows)
    made, expected = (derivatives(product, *given) for product in (products._by_onednn, F.linear))
    assert_equal_but_for_rounding(made, expected)


@needs_onednn
def test_onednn_does_so_without_a_bias_and_of_what_is_shared_among_rows():
    x, weight, _ = arguments((1, 16))
    shared = x.expand(4, 16, 128)
    made, expected = products._by_onednn(shared, weight), F.linear(shared, weight)
    assert_equal_but_for_rounding([made], [expected])
    slopes = [torch.autograd.grad(y.square().sum(), (x, weight)) for y in (made, expected)]
    assert_equal_but_for_rounding(*slopes)


@needs_onednn
def test_onednn_lets_nothing_that_is_not_finite_pass():
    x, weight, bias = arguments()
    with torch.no_grad():
        x[3, 5] = torch.nan
        made = products._by_onednn(x, weight, bias)
    assert made[3].isnan().all() and made[:3].isfinite().all()


@pytest.mark.parametrize(
    "given",
    [
        {"dtype": torch.float64, "n_rows": (1024,)},
        {"n_rows": (64,)},  # too little work
        {"n_rows": (1024 + 3,)},  # a number of rows that is not seen again
        {"n_rows": (2**15,), "n_inputs": 2},
        {"n_rows": (2**15,), "n_outputs": 2},
        {"n_rows": (16,), "n_inputs": 512, "n_outputs": 512},
    ],
)
def test_what_does_not_suit_onednn_is_left_to_torch(given, monkeypatch):
    monkeypatch.setattr(products, "_IS_FASTER", True)
    monkeypatch.setattr(products, "_by_onednn", None)  # would raise if it were called
    x, weight, bias = arguments(**given)
    assert torch.equal(products.linear(x, weight, bias), F.linear(x, weight, bias))


@needs_onednn
def test_large_products_are_made_by_onednn_unless_it_is_switched_off(monkeypatch):
    monkeypatch.setattr(products, "_IS_FASTER", True)
    x, weight, bias = arguments((1024,))
    assert "OneDNN" in type(products.linear(x, weight, bias).grad_fn).__name__
    with torch.backends.mkldnn.flags(enabled=False):
        assert "OneDNN" not in type(products.linear(x, weight, bias).grad_fn).__name__
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize("layer", [Linear, WeightNormLinear])
def test_layers_learn_the_same_by_either(layer, monkeypatch):
    gradients = []
    for faster in (True, False):
        monkeypatch.setattr(products, "_IS_FASTER", faster and products._ONEDNN is not None)
        made = layer(128, 96)
        made.initialise(make_generator(0))
        made(arguments((1024,))[0]).square().mean().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    assert_equal_but_for_rounding(*gradients)
