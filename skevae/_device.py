"""Where tensors live: "auto" to a device, and evaluation copies of modules."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn ``"auto"``, a device name or a `torch.device` into a device that is present.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is the first CUDA device if there is one, else the CPU. It is resolved anew at
        each call, so that a model fitted on a GPU runs where there is none.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is not a device, or the device is not present on this machine.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        # A device that is not there, or that holds no numbers ("meta"), cannot give one back.
        torch.zeros(1, device=resolved).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            f"device={device!r} is not available on this machine ({error}). "
            "Use device='auto' or device='cpu'."
        ) from error
    return resolved


def copy_to(module: ModuleT, device: torch.device | str, dtype: torch.dtype) -> ModuleT:
    """Return a copy of ``module`` on ``device`` in ``dtype``.

    Fitted modules rest on the CPU in float32, which is what a pickle holds; each call computes on
    a copy of its own. So pickles open on machines without a GPU, scores have the precision of the
    data, and nothing that a call does can alter the model.
    """
    return copy.deepcopy(module).to(device=device, dtype=dtype)
