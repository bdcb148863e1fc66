"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from skevae.networks.base import Network


class MLP(Network):
    """Multilayer perceptron: linear layers with an activation between them.

    Parameters
    ----------
    activation : {"silu", "relu", "gelu", "elu", "tanh", "logistic", "identity"}, default="silu"
        Activation function of the hidden layers.
    weight_norm : bool, default=False
        Whether linear layers are weight-normalised.

    Examples
    --------
    >>> from skevae.networks import MLP
    >>> MLP(activation="tanh")(3, 2, (8,))
    Sequential(
      (0): Linear(in_features=3, out_features=8, bias=True)
      (1): Tanh()
      (2): Linear(in_features=8, out_features=2, bias=True)
    )
    """

    def _build(self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]) -> nn.Module:
        layers: list[nn.Module] = []
        width = n_inputs
        for size in hidden_layer_sizes:
            layers += [self._linear(width, size), self._activation()]
            width = size
        return nn.Sequential(*layers, self._linear(width, n_outputs))
