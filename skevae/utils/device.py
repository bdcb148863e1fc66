"""Devices: resolving "auto", copies of modules for evaluation, and CUDA graphs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from skevae.utils.forks import check_threads

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def resolve_device(device: str | torch.device) -> torch.device:
    """Turn ``"auto"``, a device name or a `torch.device` into an available device.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` uses the first CUDA device if there is one, and the CPU otherwise. It is resolved
        at each call, so that a model fitted on a GPU also runs without one.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is not a device, or the device is not available on this machine.
    RuntimeError
        If this process cannot compute with torch; see `skevae.utils.forks`.
    """
    # Checked here, because each call resolves the device before it computes.
    check_threads()
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        # A device that is not available, or holds no numbers ("meta"), cannot return a number.
        torch.zeros(1, device=resolved).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        raise ValueError(
            f"device={device!r} is not available on this machine ({error}). "
            "Use device='auto' or device='cpu'."
        ) from error
    return resolved


def copy_to(module: ModuleT, device: torch.device | str, dtype: torch.dtype) -> ModuleT:
    """Return a copy of ``module`` on ``device`` in ``dtype``.

    Fitted modules are stored on the CPU in float32, also in pickles, and each call computes with
    its own copy. Pickles can therefore be loaded on machines without a GPU, scores have the
    precision of the data, and no call can modify the model.
    """
    return copy.deepcopy(module).to(device=device, dtype=dtype)


@contextmanager
def own_context() -> Iterator[None]:
    """Compute with torch's default settings, in any context of the caller.

    Otherwise, a call under ``torch.no_grad``, ``torch.inference_mode``, ``torch.autocast`` or
    ``torch.device`` would not train, would round its products, or would create its tensors on
    another device.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # Only if needed, because a device context slows down every call of torch.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def graph_recorder(
    device: torch.device, generators: Sequence[torch.Generator]
) -> Callable[[Callable[[], None]], Callable[[], None] | None] | None:
    """Return a function that records functions as CUDA graphs; None on a CPU.

    Parameters
    ----------
    device : torch.device
    generators : sequence of torch.Generator
        Generators used by the functions; a replayed graph continues to draw from them.
    """
    return partial(_record, device, generators) if device.type == "cuda" else None


def _record(
    device: torch.device, generators: Sequence[torch.Generator], function: Callable[[], None]
) -> Callable[[], None] | None:
    """Record the kernels that a function launches; None, with a warning, if this fails."""
    index = torch.cuda.current_device() if device.index is None else device.index
    drawn_from = [*generators, torch.cuda.default_generators[index]]
    states = [generator.clone_state() for generator in drawn_from]
    try:
        # The current stream is always restored, which torch only does after success. The recording
        # uses a stream of this device; the one that torch caches may belong to another device.
        with torch.cuda.device(index), torch.cuda.stream(torch.cuda.current_stream()):
            graph = torch.cuda.CUDAGraph()
            with warnings.catch_warnings():
                # Newer versions of torch detect the generators automatically.
                warnings.simplefilter("ignore")
                for generator in generators:
                    graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
                function()
    except RuntimeError as failure:
        # The cause of a failed recording is in the context of the error that ends it.
        error = failure.__context__ or failure
        # A failed recording leaves generators in the state of an active recording.
        for generator, state in zip(drawn_from, states, strict=True):
            generator.graphsafe_set_state(state)
        warnings.warn(
            f"Training steps could not be recorded as a CUDA graph. Ordinary steps are used, which "
            f"are slower but give the same result: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return graph.replay
