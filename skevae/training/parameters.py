"""The parameters as one vector: its gradient, optimizer, learning rate and moving average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skevae.utils.ranks import N_NOTES

# The factor of the learning rate when training no longer improves.
RATE_DROP = 0.2


class ParameterVector:
    """Parameters as views of one vector, with the buffers of their module.

    What touches all parameters at every step (norm, optimizer, average) is then a pass over one
    block of memory instead of a call for each.

    Parameters
    ----------
    parameters : sequence of Tensor
        Of one dtype, on one device. Their memory is replaced by a part of the vector's.
    buffers : sequence of Tensor, optional
        Other tensors that belong to the state of the model, such as the running statistics of
        batch normalisation.

    Attributes
    ----------
    values : Tensor of shape (n,)
        Its ``grad`` is a buffer that `differentiate` writes.
    message : Tensor of shape (n + N_NOTES,)
        The gradient, with room behind it for what ranks tell each other along with it.
    """

    def __init__(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor] = ()) -> None:
        self.parameters = list(parameters)
        self.buffers = list(buffers)
        self.values = torch.cat([parameter.detach().flatten() for parameter in self.parameters])
        self.message = self.values.new_zeros(self.values.numel() + N_NOTES)
        self.values.grad = self.message[:-N_NOTES]
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, self.values.split(sizes), strict=True):
            parameter.data = part.view_as(parameter)

    @classmethod
    def of(cls, module: nn.Module) -> ParameterVector:
        """Take the parameters of a module that learn, and all of its buffers."""
        learning = [p for p in module.parameters() if p.requires_grad]
        return cls(learning, list(module.buffers()))

    def check(self) -> None:
        """Raise if a parameter is no longer a view of the vector, and so would not learn."""
        memory = self.values.untyped_storage().data_ptr()
        if any(p.untyped_storage().data_ptr() != memory for p in self.parameters):
            raise ValueError(
                "A network has replaced the memory of a parameter while training (by assigning to "
                "its .data, say), so that it cannot be trained. Change it in place, or compute "
                "with the changed tensor: F.linear(x, mask * self.weight)."
            )

    def differentiate(self, loss: Tensor) -> Tensor:
        """Write the gradient of a scalar, zero where it does not reach, and return it."""
        parts = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts], out=self.values.grad)

    def snapshot(self) -> list[Tensor]:
        """Copy the whole state: the vector, then each buffer."""
        return [tensor.clone() for tensor in (self.values, *self.buffers)]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Put back what `snapshot` copied."""
        for tensor, saved in zip((self.values, *self.buffers), snapshot, strict=True):
            tensor.copy_(saved)


class WeightAverage:
    """Exponential moving average of parameters.

    Parameters
    ----------
    weights : ParameterVector
    decay : float in [0, 1)
        0 keeps no average. Early on the decay is smaller, so that the average is not held back by
        the initial values.
    """

    def __init__(self, weights: ParameterVector, decay: float) -> None:
        self.current = weights.values
        self.decay = decay
        self.n_updates = 0
        self.average = self.current.clone()
        self._share = self.current.new_empty(())

    def advance(self) -> None:
        """Count an update, which sets the weight of the current values."""
        self.n_updates += 1
        self._share.fill_(1 - min(self.decay, self.n_updates / (self.n_updates + 10)))

    def update(self) -> None:
        """Move the average towards the current values."""
        self.average.lerp_(self.current, self._share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the averages in the parameters while the context lasts."""
        current = self.current.clone()
        self.current.copy_(self.average)
        try:
            yield
        finally:
            self.current.copy_(current)


def make_optimizer(weights: ParameterVector, learning_rate: float) -> torch.optim.Optimizer:
    """Adam, fused into one kernel."""
    # A tensor, which steps that are replayed read anew.
    rate = torch.tensor(learning_rate, dtype=torch.float32, device=weights.values.device)
    return torch.optim.Adam([weights.values], lr=rate, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Moments and step count of the one vector, on the CPU; empty before the first step."""
    entries = optimizer.state_dict()["state"].values()
    return {name: value.cpu() for entry in entries for name, value in entry.items()}


def resume_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an `optimizer_state`; the learning rate stays that of ``optimizer``."""
    groups = optimizer.state_dict()["param_groups"]
    entries = {0: state} if state else {}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def lower_rate(optimizer: torch.optim.Optimizer) -> None:
    """Multiply the learning rate by `RATE_DROP`, in place where it is a tensor."""
    for group in optimizer.param_groups:
        group["lr"] *= RATE_DROP


@contextmanager
def recordable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Tell torch, which asks for it, that the optimizer's steps are being recorded."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False
