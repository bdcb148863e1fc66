"""Residual network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from skevae.networks.base import Network


class Residual(nn.Module):
    """Layer with a skip connection: x -> skip(x) + layer(x)."""

    def __init__(self, skip: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.skip = skip
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.layer(x)


class ResNet(Network):
    """Residual network: every hidden layer adds to its input [1]_.

    Where the width changes, the skip connection is a linear layer.

    Parameters
    ----------
    activation : {"silu", "relu", "gelu", "elu", "tanh", "logistic", "identity"}, default="silu"
        Activation function of the hidden layers.
    weight_norm : bool, default=False
        Whether linear layers are weight-normalised.

    References
    ----------
    .. [1] He, Zhang, Ren & Sun (2016). "Deep residual learning for image recognition".

    Examples
    --------
    >>> from skevae.networks import ResNet
    >>> sum(weights.numel() for weights in ResNet()(3, 2, (8,)).parameters())
    82
    """

    def _build(self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]) -> nn.Module:
        layers: list[nn.Module] = []
        width = n_inputs
        for size in hidden_layer_sizes:
            skip = nn.Identity() if size == width else self._linear(width, size)
            layer = nn.Sequential(self._linear(width, size), self._activation())
            layers.append(Residual(skip, layer))
            width = size
        return nn.Sequential(*layers, self._linear(width, n_outputs))
