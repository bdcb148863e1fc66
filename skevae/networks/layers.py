"""Building blocks of the networks: activations and linear layers."""

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

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None) -> None:
        """Draw weight and bias uniformly within 1 / sqrt(n_inputs), as `torch.nn.Linear` does."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5), generator=generator)
        nn.init.uniform_(self.bias, -bound, bound, generator=generator)

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
