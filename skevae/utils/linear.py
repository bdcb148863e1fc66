"""Products x W' + b, computed by the fastest library in torch.

On a CPU, torch computes float32 products with MKL, which only uses AVX2 on processors of other
manufacturers than Intel. torch also contains oneDNN, which uses AVX-512 if available: on an AMD
processor, it was twice as fast. On an Intel processor, MKL was faster. torch's compiler calls
oneDNN by the operator used here, which is not public. If a version of torch lacks the operator, MKL
is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Below this many multiply-adds, rows or columns, calling oneDNN costs more than it saves.
MIN_MULTIPLY_ADDS = 2**21
MIN_SIDE = 32

# oneDNN caches half a megabyte for every number of rows. Minibatches and chunks are mostly
# multiples of 16; incomplete ones are not, and their sizes vary between data sets.
ROWS_MULTIPLE = 16

# Unknown to torch 2.6.
_CAPABILITIES = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}

_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_IS_FASTER = (
    _ONEDNN is not None
    and torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    and "Intel" not in str(_CAPABILITIES.get("cpu_name"))
)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is faster and can be used."""
    # An exported graph is for any number of rows, and can only contain public operators.
    if torch.compiler.is_compiling():
        return False
    n_outputs, n_inputs = weight.shape
    n_rows = x.shape[:-1].numel()
    return bool(
        _IS_FASTER
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and min(n_rows, n_inputs, n_outputs) >= MIN_SIDE
        and n_rows * n_inputs * n_outputs >= MIN_MULTIPLY_ADDS
        and n_rows % ROWS_MULTIPLE == 0
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b, differentiable: (..., n_inputs), (n_outputs, n_inputs) -> (..., n_outputs)."""
    product = _by_onednn if _suits(x, weight) else F.linear
    return product(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if torch.is_grad_enabled():
        return _OneDNNLinear.apply(x, weight, bias)
    return _ONEDNN(x, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    """The product by oneDNN, whose gradients are also computed by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        by_x = _by_onednn(grad, weight.mT) if of_x else None
        grad, x = grad.flatten(0, -2), x.flatten(0, -2)
        by_weight = _by_onednn(grad.mT, x.mT) if of_weight else None
        return by_x, by_weight, grad.sum(0) if of_bias else None
