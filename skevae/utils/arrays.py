"""Conversion of torch tensors in the input to arrays."""

from __future__ import annotations

from typing import Any

import torch


def from_torch(value: Any, name: str) -> Any:
    """Turn a torch tensor into an array; return anything else unchanged.

    The array has no gradient, on any device, and floating-point types that NumPy does not support
    become float32.

    Raises
    ------
    TypeError
        If the tensor is not dense, is quantized or holds no values.
    """
    if not isinstance(value, torch.Tensor):
        return value
    if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
        raise TypeError(
            f"{name} is a torch tensor of layout {value.layout} and dtype {value.dtype} on device "
            f"{value.device}, which cannot be converted to an array. Pass a dense one with "
            "numbers, for example by to_dense() or dequantize()."
        )
    value = value.detach()
    if value.is_floating_point() and value.dtype not in (torch.float16, torch.float64):
        value = value.float()
    return value.cpu().resolve_conj().resolve_neg().numpy()


def is_missing(value: Any) -> bool:
    """Whether an object is None, nan, or the NA of pandas, which cannot be compared."""
    return value is None or type(value).__name__ == "NAType" or bool(value != value)
