"""The parameters as one vector: its gradient, optimizer, learning rate and moving average."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from skevae.utils.ranks import N_NOTES

# Factor for the learning rate when training no longer improves.
RATE_DROP = 0.2


class ParameterVector:
    """Parameters as views of one vector, together with the buffers of their module.

    Operations on all parameters in every step (norm, optimizer, average) are then a single pass
    over one block of memory instead of a call for each parameter.

    Parameters
    ----------
    parameters : sequence of Tensor
        Parameters of one dtype, on one device. Their memory is replaced by a part of the vector.
    buffers : sequence of Tensor, optional
        Other tensors that belong to the state of the model, such as the running statistics of
        batch normalisation.

    Attributes
    ----------
    values : Tensor of shape (n,)
        The vector. Its ``grad`` is a buffer that `differentiate` writes.
    message : Tensor of shape (n + N_NOTES,)
        The gradient, followed by space for messages between ranks.
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
        """Collect the trainable parameters of a module, and all of its buffers."""
        learning = [p for p in module.parameters() if p.requires_grad]
        return cls(learning, list(module.buffers()))

    def check(self) -> None:
        """Raise if a parameter is no longer a view of the vector, so that it is not trained."""
        memory = self.values.untyped_storage().data_ptr()
        if any(p.untyped_storage().data_ptr() != memory for p in self.parameters):
            raise ValueError(
                "A network has replaced the memory of a parameter during training (for example by "
                "assigning to its .data), so it cannot be trained. Change the parameter in place, "
                "or compute with the changed tensor: F.linear(x, mask * self.weight)."
            )

    def differentiate(self, loss: Tensor) -> Tensor:
        """Compute, store and return the gradient of a scalar; 0 for unused parameters."""
        parts = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts], out=self.values.grad)

    def snapshot(self) -> list[Tensor]:
        """Copy the state: the vector, then each buffer."""
        return [tensor.clone() for tensor in (self.values, *self.buffers)]

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Restore the state copied by `snapshot`."""
        for tensor, saved in zip((self.values, *self.buffers), snapshot, strict=True):
            tensor.copy_(saved)


class WeightAverage:
    """Exponential moving average of parameters.

    Parameters
    ----------
    weights : ParameterVector
    decay : float in [0, 1)
        0 means no average. The decay is smaller at the beginning, so that the initial values do not
        dominate the average.
    """

    def __init__(self, weights: ParameterVector, decay: float) -> None:
        self.current = weights.values
        self.decay = decay
        self.n_updates = 0
        self.average = self.current.clone()
        self._share = self.current.new_empty(())

    def advance(self) -> None:
        """Count an update, which determines the weight of the current values."""
        self.n_updates += 1
        self._share.fill_(1 - min(self.decay, self.n_updates / (self.n_updates + 10)))

    def update(self) -> None:
        """Move the average towards the current values."""
        self.average.lerp_(self.current, self._share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters by their averages within the context."""
        current = self.current.clone()
        self.current.copy_(self.average)
        try:
            yield
        finally:
            self.current.copy_(current)


def make_optimizer(weights: ParameterVector, learning_rate: float) -> torch.optim.Optimizer:
    """Adam, fused into one kernel."""
    # A tensor, whose current value is read by replayed steps.
    rate = torch.tensor(learning_rate, dtype=torch.float32, device=weights.values.device)
    return torch.optim.Adam([weights.values], lr=rate, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Moments and step count of the one vector, on the CPU; empty before the first step."""
    entries = optimizer.state_dict()["state"].values()
    return {name: value.cpu() for entry in entries for name, value in entry.items()}


def resume_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an `optimizer_state`; the learning rate of ``optimizer`` is not changed."""
    groups = optimizer.state_dict()["param_groups"]
    entries = {0: state} if state else {}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def lower_rate(optimizer: torch.optim.Optimizer) -> None:
    """Multiply the learning rate by `RATE_DROP`, in place if it is a tensor."""
    for group in optimizer.param_groups:
        group["lr"] *= RATE_DROP


@contextmanager
def recordable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Tell torch that the steps of the optimizer are being recorded, as it requires."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False
