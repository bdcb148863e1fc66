"""Base class of the networks: objects with parameters that build a torch module when called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.utils._param_validation import StrOptions
from torch import nn

from skevae.networks.layers import ACTIVATIONS, Conv, Linear, WeightNormLinear
from skevae.utils.documentation import DocumentedEstimator

# Signature of `EnergyVAE(network=...)`: (n_inputs, n_outputs, hidden_layer_sizes) -> module.
NetworkBuilder = Callable[[int, int, Sequence[int]], nn.Module]


class Network(DocumentedEstimator):
    """Base class of the networks: ``network(n_inputs, n_outputs, hidden_layer_sizes)`` -> module.

    It only holds parameters. The weights are in the modules that it builds, so one object can build
    both encoder and decoder.

    Parameters
    ----------
    activation : {"silu", "relu", "gelu", "elu", "tanh", "logistic", "identity"}, default="silu"
        Activation function of the hidden layers.
    weight_norm : bool, default=False
        Whether linear layers are weight-normalised.

    Examples
    --------
    Any callable with these arguments can be a network, such as a function:

    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> from torch import nn
    >>> def linear(n_inputs, n_outputs, hidden_layer_sizes):
    ...     return nn.Linear(n_inputs, n_outputs)
    >>> vae = EnergyVAE(2, network=linear, max_iter=1).fit(load_iris().data)
    >>> vae.transform(load_iris().data[:3]).shape
    (3, 2)
    """

    _documented_in = "skevae.networks"
    _parameter_constraints: dict[str, list[Any]] = {
        "activation": [StrOptions(set(ACTIVATIONS))],
        "weight_norm": ["boolean"],
    }

    def __init__(self, *, activation="silu", weight_norm=False):
        self.activation = activation
        self.weight_norm = weight_norm

    def __call__(
        self,
        n_inputs: int,
        n_outputs: int,
        hidden_layer_sizes: Sequence[int],
        generator: torch.Generator | None = None,
        *,
        decodes: bool = False,
    ) -> nn.Module:
        """Build a module that maps (..., n_inputs) to (..., n_outputs).

        Parameters
        ----------
        n_inputs, n_outputs : int
        hidden_layer_sizes : sequence of int
            Widths of the hidden layers.
        generator : torch.Generator, optional
            Generator of the initial weights, on the CPU; None uses torch's global generator.
        decodes : bool, default=False
            Whether the outputs are the parameters of a row, instead of the inputs being a row.

        Returns
        -------
        torch.nn.Module
        """
        self._validate_params()
        build = self._build_decoder if decodes else self._build
        module = build(n_inputs, n_outputs, hidden_layer_sizes)
        for layer in module.modules():
            if isinstance(layer, Linear | Conv):
                layer.initialise(generator)
        return module

    def _build(self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]) -> nn.Module:
        raise NotImplementedError

    def _build_decoder(
        self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]
    ) -> nn.Module:
        return self._build(n_inputs, n_outputs, hidden_layer_sizes)

    def _linear(self, n_inputs: int, n_outputs: int) -> Linear:
        """Linear layer, with weight normalisation if enabled."""
        layer = WeightNormLinear if self.weight_norm else Linear
        return layer(n_inputs, n_outputs)

    def _activation(self) -> nn.Module:
        return ACTIVATIONS[self.activation]()
