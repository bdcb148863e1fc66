"""Building blocks of the networks: activations, linear layers and convolutions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skevae.utils.linear import linear

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


class Linear(nn.Linear):
    """Linear layer whose products are computed by `skevae.utils.linear.linear`.

    Its weights are undefined until `initialise` is called: torch's layer would draw them from the
    global generator.
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, dtype=torch.float32)

    def reset_parameters(self) -> None:
        """Do nothing; `initialise` draws the values."""

    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw weight and bias uniformly within 1 / sqrt(n_inputs), as `torch.nn.Linear` does."""
        _draw_uniform(self, self.in_features, generator)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class WeightNormLinear(Linear):
    r"""Linear layer with weight normalisation, w = g v / \|v\| (Salimans & Kingma 2016).

    torch's parametrised modules cannot be pickled.
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs)
        self.gain = nn.Parameter(torch.empty((n_outputs, 1), dtype=torch.float32))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        super().initialise(generator)
        self.gain.copy_(self.weight.norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.gain * F.normalize(self.weight, dim=1), self.bias)


class Conv(nn.Module):
    """Convolution of images that keeps their size, divided by its stride.

    Like those of `Linear`, its weights are undefined until `initialise` is called.
    """

    def __init__(self, n_inputs: int, n_outputs: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        shape = (n_outputs, n_inputs, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(n_outputs, dtype=torch.float32))

    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw weight and bias as `torch.nn.Conv2d` does."""
        _draw_uniform(self, self.weight[0].numel(), generator)

    def forward(self, x: Tensor) -> Tensor:
        # With channels last, oneDNN takes half the time. Activations and sums keep the layout.
        x = x.contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.weight.shape[-1] // 2)


@torch.no_grad()
def _draw_uniform(layer: Linear | Conv, n_inputs: int, generator: torch.Generator | None) -> None:
    """Draw weight and bias uniformly within 1 / sqrt(n_inputs)."""
    bound = 1 / math.sqrt(n_inputs)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
