"""Build a network from the parameter of an estimator, and check the result."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skevae.networks import NETWORKS
from skevae.networks.base import Network, NetworkBuilder
from skevae.networks.layers import ACTIVATIONS
from skevae.utils.random import lent_globals

# Modules with a deterministic forward pass, in addition to those of this package and of zuko.
DETERMINISTIC = (
    nn.Sequential,
    nn.ModuleList,
    nn.Linear,
    nn.Flatten,
    nn.Unflatten,
    *ACTIVATIONS.values(),
)


def build_network(
    network: str | NetworkBuilder,
    n_inputs: int,
    n_outputs: int,
    hidden_layer_sizes: Sequence[int],
    generator: torch.Generator,
    parameter: str = "network",
    *,
    decodes: bool = False,
) -> nn.Module:
    """Build a network and check its shape.

    Parameters
    ----------
    network : str or callable
        A key of `skevae.networks.NETWORKS`, or a callable
        ``(n_inputs, n_outputs, hidden_layer_sizes) -> torch.nn.Module``, such as
        `skevae.networks.MLP` or a user's function.
    n_inputs, n_outputs : int
        If ``n_outputs`` is 1, a module that maps (n, n_inputs) to (n,) is accepted as well.
    hidden_layer_sizes : sequence of int
    generator : torch.Generator
        Generator of the initial weights, on the CPU. torch's global generator takes its state
        while a custom function builds its module.
    parameter : str, default="network"
        Name of the estimator's parameter, for error messages.
    decodes : bool, default=False
        Whether the network is a decoder; only `Network` objects are told.

    Returns
    -------
    torch.nn.Module
        In evaluation mode.

    Raises
    ------
    TypeError
        If ``network`` cannot be called with these three arguments, or does not return a module.
        Errors raised inside a custom function are passed on unchanged.
    ValueError
        If the module does not map a batch of two rows to the required shape.
    """
    # Parameters may be NumPy integers, which torch does not take.
    n_inputs, n_outputs = int(n_inputs), int(n_outputs)
    builder = NETWORKS[network]() if isinstance(network, str) else network
    given = f"{parameter}={network!r}"
    _check_signature(builder, given)
    module: Any
    if isinstance(builder, Network):
        module = builder(n_inputs, n_outputs, hidden_layer_sizes, generator, decodes=decodes)
    else:
        with lent_globals(generator):
            module = builder(n_inputs, n_outputs, hidden_layer_sizes)
    shapes = {(2, 1), (2,)} if n_outputs == 1 else {(2, n_outputs)}
    wanted = f"map (n, {n_inputs}) to (n, {n_outputs})" + " or (n,)" * (n_outputs == 1)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{given} must return a torch.nn.Module to {wanted}, got {module!r}.")
    try:
        with torch.no_grad():
            outputs = module.eval()(torch.zeros(2, n_inputs))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{given} must return a module to {wanted}, but the one it returned fails on an input "
            f"of shape (2, {n_inputs}): {error}"
        ) from error
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if shape not in shapes:
        raise ValueError(
            f"{given} must return a module to {wanted}, but it returned one that maps "
            f"(2, {n_inputs}) to {shape}."
        )
    return module


def _check_signature(builder: Any, given: str) -> None:
    """Raise if the callable does not take the three arguments of the protocol."""
    protocol = "(n_inputs, n_outputs, hidden_layer_sizes) -> torch.nn.Module"
    if isinstance(builder, nn.Module):
        raise TypeError(
            f"{given} is a module, but encoder and decoder differ in shape. Pass a callable "
            f"{protocol} that builds them."
        )
    try:
        signature = inspect.signature(builder)
    except ValueError:  # built-in callables have none
        return
    try:
        signature.bind(0, 0, ())
    except TypeError as error:
        raise TypeError(f"{given} must be a callable {protocol}: {error}.") from error


def draws_globally(module: nn.Module) -> bool:
    """Whether a module may draw from torch's global generator, such as custom dropout."""
    return not all(
        type(part).__module__.split(".")[0] in ("skevae", "zuko") or type(part) in DETERMINISTIC
        for part in module.modules()
    )
