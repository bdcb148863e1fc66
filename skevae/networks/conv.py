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


class SubPixels(nn.Module):
    """Images of twice the height and width, cropped: four channels are the pixels of one."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.size
        return F.pixel_shuffle(x, 2)[..., :height, :width]


class OnImages(nn.Module):
    """Apply layers of images to rows: (..., n_inputs) -> (..., n_outputs)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class ConvResNet(Network):
    """Convolutional residual network [1]_ for rows that are images.

    Each hidden layer of the encoder halves height and width by a convolution of stride 2, followed
    by a residual convolution. The decoder is its mirror image. It enlarges by the nearest pixels
    before each convolution except the last, which computes the four pixels that replace one as
    separate channels (sub-pixel convolution [2]_). ``hidden_layer_sizes`` of the estimator are the
    channels of the layers, first that of the largest images.

    Parameters
    ----------
    image_shape : tuple of (height, width) or (channels, height, width), default=(28, 28)
        Shape of a row. Channels come first in a row, as in torch.
    kernel_size : int, default=3
        Height and width of the kernels; an odd number.
    activation : {"silu", "relu", "gelu", "elu", "tanh", "logistic", "identity"}, default="silu"
        Activation function of the hidden layers.

    Raises
    ------
    ValueError
        In ``fit``, if ``image_shape`` is not the shape of a row, or ``kernel_size`` is even.

    References
    ----------
    .. [1] He, Zhang, Ren & Sun (2016). "Deep residual learning for image recognition".
    .. [2] Shi, Caballero, Huszár, Totz, Aitken, Bishop, Rueckert & Wang (2016). "Real-time single
           image and video super-resolution using an efficient sub-pixel convolutional neural
           network".

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
        n_values, size = self._n_values_and_size()
        # A row, or a row and the mask of its observed entries.
        if n_inputs not in (n_values, 2 * n_values):
            raise self._mismatch(n_values, f"the encoder has {n_inputs} inputs")
        n_channels = n_inputs // math.prod(size)
        return OnImages(self._encoder(size, n_channels, n_outputs, list(hidden_layer_sizes)))

    def _build_decoder(
        self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]
    ) -> nn.Module:
        n_values, size = self._n_values_and_size()
        if n_outputs % n_values:
            raise self._mismatch(n_values, f"the decoder has {n_outputs} outputs")
        n_channels = n_outputs // math.prod(size)
        return OnImages(self._decoder(size, n_inputs, n_channels, list(hidden_layer_sizes)))

    def _n_values_and_size(self) -> tuple[int, tuple[int, int]]:
        """Number of values of a row, and height and width of its image."""
        given = tuple(self.image_shape)
        positive = all(isinstance(n, Integral) and int(n) > 0 for n in given)
        if len(given) not in (2, 3) or not positive:
            raise ValueError(
                f"image_shape={self.image_shape!r} must be (height, width) or (channels, height, "
                "width), all positive integers."
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size} must be odd.")
        shape = [int(n) for n in given]
        return math.prod(shape), (shape[-2], shape[-1])

    def _mismatch(self, n_values: int, found: str) -> ValueError:
        return ValueError(
            f"image_shape={self.image_shape!r} is the shape of rows with {n_values} values, but "
            f"{found}. Set image_shape to the shape of a row of X. If columns are integers or "
            'categories, use integer_features=None, or likelihood="bernoulli".'
        )

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
        if not widths:
            linear = self._linear(n_inputs, n_channels * math.prod(size))
            return nn.Sequential(linear)
        sizes = [size]
        for _ in widths:
            sizes.append(_halved(sizes[-1]))
        layers: list[nn.Module] = [
            self._linear(n_inputs, widths[0] * math.prod(sizes[-1])),
            nn.Unflatten(-1, (widths[0], *sizes[-1])),
            self._residual(widths[0]),
        ]
        for width, wider, larger in zip(widths[:-1], widths[1:], sizes[-2:0:-1], strict=True):
            layers += [Resized(larger), self._conv(width, wider), self._residual(wider)]
        layers += [self._conv(widths[-1], 4 * n_channels), SubPixels(size)]
        return nn.Sequential(*layers, nn.Flatten(-3))

    def _conv(self, n_inputs: int, n_outputs: int, stride: int = 1) -> Conv:
        return Conv(n_inputs, n_outputs, self.kernel_size, stride)

    def _residual(self, width: int) -> nn.Module:
        layer = nn.Sequential(self._activation(), self._conv(width, width), self._activation())
        return Residual(nn.Identity(), layer)


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width after a convolution of stride 2."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
