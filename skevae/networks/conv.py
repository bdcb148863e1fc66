"""Convolutional residual network for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch.nn.functional as F
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from skevae.networks.base import Network
from skevae.networks.layers import ACTIVATIONS, Conv
from skevae.networks.resnet import Residual


class Resized(nn.Module):
    """Images of another height and width: the nearest pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size)


class OnImages(nn.Module):
    """Apply layers of images to rows: (..., n_inputs) -> (..., n_outputs)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class ConvResNet(Network):
    """Convolutional residual network for rows that are images.

    Each hidden layer of the encoder halves height and width by a convolution of stride 2, followed
    by a residual convolution. The decoder is its mirror image; it enlarges by the nearest pixels
    before each convolution. ``hidden_layer_sizes`` of the estimator are the channels of the layers,
    first that of the largest images.

    Parameters
    ----------
    image_shape : tuple of (height, width) or (channels, height, width), default=(28, 28)
        Shape of a row. Channels come first in a row, as in torch.
    kernel_size : int, default=3
        Height and width of the kernels; an odd number.
    activation : {"silu", "relu", "gelu", "elu", "tanh", "logistic", "identity"}, default="silu"
        Activation function of the hidden layers.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skevae import EnergyVAE
    >>> from skevae.networks import ConvResNet
    >>> X = load_digits().data / 16
    >>> network = ConvResNet((8, 8))
    >>> vae = EnergyVAE(8, network=network, hidden_layer_sizes=(8, 16), max_iter=1).fit(X[:100])
    >>> vae.sample(2).shape
    (2, 64)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "image_shape": [tuple, list],
        "kernel_size": [Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
    }
    weight_norm = False

    def __init__(self, image_shape=(28, 28), *, kernel_size=3, activation="silu"):
        self.image_shape = image_shape
        self.kernel_size = kernel_size
        self.activation = activation

    def _build(self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]) -> nn.Module:
        channels, *size = self._checked_shape()
        n_pixels, widths = math.prod(size), list(hidden_layer_sizes)
        if n_inputs % (channels * n_pixels) == 0:
            n_channels = n_inputs // n_pixels
            layers = self._encoder((size[0], size[1]), n_channels, n_outputs, widths)
        elif n_outputs % (channels * n_pixels) == 0:
            layers = self._decoder((size[0], size[1]), n_inputs, n_outputs // n_pixels, widths)
        else:
            raise ValueError(
                f"image_shape={self.image_shape!r} has {channels * n_pixels} values, but the "
                f"network is for {n_inputs} inputs and {n_outputs} outputs, neither of which is a "
                "multiple of that. Set image_shape to the shape of a row of X."
            )
        return OnImages(layers)

    def _checked_shape(self) -> tuple[int, ...]:
        shape = tuple(self.image_shape)
        whole = all(isinstance(n, Integral) and int(n) > 0 for n in shape)
        if len(shape) not in (2, 3) or not whole:
            raise ValueError(
                f"image_shape={self.image_shape!r} must be (height, width) or (channels, height, "
                "width), all positive integers."
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd.")
        return (1, *shape)[-3:]

    def _encoder(
        self, size: tuple[int, int], n_channels: int, n_outputs: int, widths: list[int]
    ) -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(-1, (n_channels, *size))]
        for width in widths:
            layers += [self._conv(n_channels, width, stride=2), self._residual(width)]
            n_channels, size = width, _halved(size)
        linear = self._linear(n_channels * math.prod(size), n_outputs)
        return nn.Sequential(*layers, nn.Flatten(-3), linear)

    def _decoder(
        self, size: tuple[int, int], n_inputs: int, n_channels: int, widths: list[int]
    ) -> nn.Module:
        sizes = [size]
        for _ in widths:
            sizes.append(_halved(sizes[-1]))
        first = [*widths, n_channels][0]
        layers: list[nn.Module] = [
            self._linear(n_inputs, first * math.prod(sizes[-1])),
            nn.Unflatten(-1, (first, *sizes[-1])),
        ]
        following = [*widths[1:], n_channels] if widths else []
        for width, wider, larger in zip(widths, following, sizes[-2::-1], strict=True):
            layers += [self._residual(width), Resized(larger), self._conv(width, wider)]
        return nn.Sequential(*layers, nn.Flatten(-3))

    def _conv(self, n_inputs: int, n_outputs: int, stride: int = 1) -> Conv:
        return Conv(n_inputs, n_outputs, self.kernel_size, stride)

    def _residual(self, width: int) -> nn.Module:
        layer = nn.Sequential(self._activation(), self._conv(width, width), self._activation())
        return Residual(nn.Identity(), layer)


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after a convolution of stride 2."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
