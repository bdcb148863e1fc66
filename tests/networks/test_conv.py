"""Laws of the convolutional network: rows are images, channels first."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits

from skevae import EnergyVAE, load_model, save_model
from skevae.networks import ConvResNet
from skevae.networks.build import build_network, draws_globally
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")
X_DIGITS = load_digits().data[:60] / 16
N_LATENT = 23


def build(shape, n_inputs, n_outputs, sizes=(4, 6), seed=0, **params):
    decodes = n_inputs == N_LATENT
    network = ConvResNet(shape, **params)
    generator = make_generator(seed)
    return build_network(network, n_inputs, n_outputs, sizes, generator, decodes=decodes).double()


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


SHAPES = pytest.mark.parametrize("shape", [(8, 8), (7, 5), (3, 6, 9), (1, 1), (2, 1, 4)])


@SHAPES
@pytest.mark.parametrize("sizes", [(), (4,), (4, 6, 8)])
def test_it_maps_the_last_axis_and_no_other(shape, sizes):
    n = math.prod(shape)
    for network, width in [
        (build(shape, n, 5, sizes), n),
        (build(shape, 2 * n, 5, sizes), 2 * n),  # an image and the mask of its observed pixels
        (build(shape, N_LATENT, 3 * n, sizes), N_LATENT),
    ]:
        for leading in [(), (6,), (2, 6)]:
            x = inputs(*leading, width)
            rows = torch.stack([network(row) for row in x.reshape(-1, width)])
            torch.testing.assert_close(network(x), rows.reshape(*leading, -1))


@SHAPES
def test_every_parameter_has_a_say(shape):
    n = math.prod(shape)
    for network, width in [(build(shape, n, 5), n), (build(shape, N_LATENT, 3 * n), N_LATENT)]:
        network(inputs(20, width)).square().sum().backward()
        # Of kernels, at least the centre; the rest can fall outside of the smallest images.
        assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())
        assert not draws_globally(network)


def test_the_encoder_moves_with_the_image():
    # Two layers of stride 2: four pixels in the image are one in the features, edges aside.
    layers = build((40, 40), 1600, 3).layers
    convolutions = layers[:-2]
    image = torch.zeros(40, 40, dtype=torch.float64)
    image[16:20, 16:20] = inputs(4, 4)
    moved = image.roll((4, 8), dims=(0, 1))
    before, after = (convolutions(x.reshape(1, -1)) for x in (image, moved))
    inner = (slice(None), slice(None), slice(4, -2), slice(4, -2))
    torch.testing.assert_close(before.roll((1, 2), dims=(2, 3))[inner], after[inner])


def test_the_decoder_is_local():
    # One pixel of the smallest image reaches only its neighbourhood, in each channel and output.
    network = build((2, 32, 32), N_LATENT, 3 * 2 * 32 * 32)
    layers = network.layers[1:]
    small = torch.zeros(1, 4 * 8 * 8, dtype=torch.float64)
    touched = small.clone()
    touched[0, 2 * 64 + 9] = 1.0  # channel 2, at (1, 1)
    changed = (layers(touched) != layers(small)).reshape(3 * 2, 32, 32)
    assert changed[:, :12, :12].any(dim=(1, 2)).all()
    assert not changed[:, 20:].any() and not changed[:, :, 20:].any()


def test_the_seed_determines_the_weights():
    x = inputs(4, 64)
    here, again, other = (build((8, 8), 64, 2, seed=s)(x) for s in (1, 1, 2))
    assert torch.equal(here, again) and not torch.equal(here, other)
    network = build((8, 8), 64, 2)
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian-mixture"])
def test_in_an_estimator(likelihood, tmp_path):
    vae = EnergyVAE(
        4,
        network=ConvResNet((8, 8), kernel_size=5, activation="gelu"),
        hidden_layer_sizes=(3, 4),
        likelihood=likelihood,
        max_iter=2,
        n_score_draws=20,
        random_state=0,
    )
    X = X_DIGITS.copy()
    X[::3, :10] = np.nan
    scores = vae.fit(X).score_samples(X)
    assert np.isfinite(scores).all()
    assert vae.sample(3).shape == (3, 64)
    save_model(vae, tmp_path / "images")
    np.testing.assert_array_equal(load_model(tmp_path / "images").score_samples(X), scores)
    assert clone(vae).get_params()["network__kernel_size"] == 5


@pytest.mark.parametrize(
    "params, message",
    [
        (
            {"image_shape": (7, 8)},
            r"image_shape=\(7, 8\) .* 56 values, but the encoder has 64 inputs",
        ),
        (
            {"image_shape": (4, 4)},
            r"image_shape=\(4, 4\) .* 16 values, but the encoder has 64 inputs",
        ),
        ({"image_shape": (8,)}, r"image_shape=\(8,\) must be \(height, width\)"),
        ({"image_shape": (8, 0)}, r"image_shape=\(8, 0\) must be .* positive integers"),
        ({"image_shape": (8.0, 8)}, r"image_shape=\(8.0, 8\) must be"),
        ({"image_shape": 64}, "'image_shape' parameter"),
        ({"image_shape": (8, 8), "kernel_size": 4}, "kernel_size=4 must be odd"),
        ({"image_shape": (8, 8), "kernel_size": 0}, "'kernel_size' parameter"),
        ({"image_shape": (8, 8), "activation": "no such"}, "'activation' parameter"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        EnergyVAE(network=ConvResNet(**params)).fit(X_DIGITS)


@pytest.mark.parametrize("n_components", [64, 128])
def test_as_many_latents_as_pixels(n_components):
    vae = EnergyVAE(n_components, network=ConvResNet((8, 8)), hidden_layer_sizes=(3,), max_iter=1)
    decoder = vae.fit(X_DIGITS).module_.decoder
    assert decoder.layers[0].in_features == n_components


def test_columns_of_integers():
    # Binned mixtures have as many outputs for each pixel; probabilities of single values do not.
    pixels = np.random.default_rng(0).integers(0, 256, (60, 64), dtype=np.uint8)
    table = pd.DataFrame(pixels)
    vae = EnergyVAE(network=ConvResNet((8, 8)), hidden_layer_sizes=(3,), max_iter=1)
    assert vae.fit(table).sample(2).shape == (2, 64)
    table[0] = np.where(np.arange(60) % 2, 0, 200).astype(np.uint8)
    with pytest.raises(ValueError, match="use integer_features=None"):
        vae.fit(table)
    assert vae.set_params(integer_features=None).fit(table).sample(2).shape == (2, 64)


def test_shapes_of_numpy():
    network = ConvResNet(tuple(np.array([8, 8])))
    assert network(64, 3, (4,), make_generator(0)).layers(torch.zeros(2, 64)).shape == (2, 3)
