"""Densely connected network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skevae.networks.base import Network


class DenselyConnected(nn.Module):
    """Module in which every layer receives the input and the outputs of all earlier layers.

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


class DenseNet(Network):
    """Densely connected network: every layer receives the input and all earlier outputs.

    "Variational Inference with Unnormalized Priors" uses it for its toy data [1]_.

    Parameters
    ----------
    activation : {"silu", "relu", "gelu", "elu", "tanh", "logistic", "identity"}, default="silu"
        Activation function of the hidden layers.
    weight_norm : bool, default=False
        Whether linear layers are weight-normalised.

    References
    ----------
    .. [1] Huang, Liu, van der Maaten & Weinberger (2017). "Densely connected convolutional
       networks".

    Examples
    --------
    >>> from skevae.networks import DenseNet
    >>> sum(weights.numel() for weights in DenseNet()(3, 2, (8,)).parameters())
    56
    """

    def _build(self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]) -> nn.Module:
        hidden: list[nn.Module] = []
        width = n_inputs
        for size in hidden_layer_sizes:
            hidden.append(nn.Sequential(self._linear(width, size), self._activation()))
            width += size
        return DenselyConnected(hidden, self._linear(width, n_outputs))
