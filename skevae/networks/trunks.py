"""Trunks: the networks inside encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skevae.networks.linear import linear

NetworkBuilder = Callable[[int, int, Sequence[int]], nn.Module]


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
    """Linear layer whose products are made by `skevae._linear.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class WeightNormLinear(nn.Linear):
    r"""Linear layer with weight normalisation, w = g v / \|v\| (Salimans & Kingma 2016).

    Written out because torch's parametrised modules cannot be pickled.
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs)
        self.gain = nn.Parameter(self.weight.detach().norm(dim=1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.gain * F.normalize(self.weight, dim=1), self.bias)


class DenselyConnected(nn.Module):
    """Trunk in which every layer sees the input and all earlier layers' outputs.

    Parameters
    ----------
    hidden : sequence of Module
        Layer k takes n_inputs plus the widths of all layers before it.
    output : Module
        Takes the concatenation of everything.
    """

    def __init__(self, hidden: Sequence[nn.Module], output: nn.Module) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(hidden)
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.cat([x, layer(x)], dim=-1)
        return self.output(x)


def build_mlp(
    n_inputs: int,
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    activation: type[nn.Module],
    layer: Callable[[int, int], nn.Linear],
) -> nn.Module:
    """Multilayer perceptron."""
    layers: list[nn.Module] = []
    width = n_inputs
    for size in hidden_layer_sizes:
        layers += [layer(width, size), activation()]
        width = size
    return nn.Sequential(*layers, layer(width, n_outputs))


def build_densenet(
    n_inputs: int,
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    activation: type[nn.Module],
    layer: Callable[[int, int], nn.Linear],
) -> nn.Module:
    """Densely connected trunk, as the paper uses for its toy data (Huang et al. 2017)."""
    hidden: list[nn.Module] = []
    width = n_inputs
    for size in hidden_layer_sizes:
        hidden.append(nn.Sequential(layer(width, size), activation()))
        width += size
    return DenselyConnected(hidden, layer(width, n_outputs))


class Residual(nn.Module):
    """Layer beside a connection that skips it: x -> skip(x) + layer(x) (He et al. 2016)."""

    def __init__(self, skip: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.skip = skip
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.layer(x)


def build_resnet(
    n_inputs: int,
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    activation: type[nn.Module],
    layer: Callable[[int, int], nn.Linear],
) -> nn.Module:
    """Residual network; a linear map skips the layers that change the width."""
    layers: list[nn.Module] = []
    width = n_inputs
    for size in hidden_layer_sizes:
        skip = nn.Identity() if size == width else layer(width, size)
        layers.append(Residual(skip, nn.Sequential(layer(width, size), activation())))
        width = size
    return nn.Sequential(*layers, layer(width, n_outputs))


NETWORKS = {"mlp": build_mlp, "densenet": build_densenet, "resnet": build_resnet}


def network_builder(
    network: str | NetworkBuilder, activation: str, weight_norm: bool
) -> NetworkBuilder:
    """Turn the user's choice into a callable (n_inputs, n_outputs, hidden_layer_sizes) -> Module.

    Parameters
    ----------
    network : str or callable
        A key of `NETWORKS`, or such a callable already, which is returned as it is.
    activation : str
        A key of `ACTIVATIONS`.
    weight_norm : bool
        Whether linear layers are weight-normalised.
    """
    if callable(network):
        return network
    build = NETWORKS[network]
    layer = WeightNormLinear if weight_norm else Linear

    def builder(n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]) -> nn.Module:
        return build(n_inputs, n_outputs, hidden_layer_sizes, ACTIVATIONS[activation], layer)

    return builder
