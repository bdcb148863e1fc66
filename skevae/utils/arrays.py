"""Torch tensors as input: they become arrays at the door."""

from __future__ import annotations

from typing import Any

import torch


def from_torch(value: Any, name: str) -> Any:
    """Turn a torch tensor into an array; return anything else as it is.

    What is computed of it has no gradient, wherever the tensor came from, and floats that NumPy has
    no dtype for become float32.

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
            f"{value.device}, of which no array can be made. Pass a dense one that holds numbers, "
            "for example by to_dense() or dequantize()."
        )
    value = value.detach()
    if value.is_floating_point() and value.dtype not in (torch.float16, torch.float64):
        value = value.float()
    return value.cpu().resolve_conj().resolve_neg().numpy()
