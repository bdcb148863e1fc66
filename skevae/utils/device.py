"""Where tensors live: "auto" to a device, evaluation copies of modules, CUDA graphs."""

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
    RuntimeError
        If nothing can be computed in this process: see `skevae.utils.forks`.
    """
    # Here, since each call asks where to compute before it does.
    check_threads()
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


@contextmanager
def own_context() -> Iterator[None]:
    """Compute as torch does by default, whatever context the caller has opened.

    A call under ``torch.no_grad``, ``torch.inference_mode``, ``torch.autocast`` or
    ``torch.device`` would otherwise train nothing, round its products or make its tensors on
    another device.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # Only where needed, since a device context slows every call into torch down.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def graph_recorder(
    device: torch.device, generators: Sequence[torch.Generator]
) -> Callable[[Callable[[], None]], Callable[[], None] | None] | None:
    """Return what records functions as CUDA graphs; None where there are none, on a CPU.

    Parameters
    ----------
    device : torch.device
    generators : sequence of torch.Generator
        From which the functions draw; they go on drawing when a graph is replayed.
    """
    return partial(_record, device, generators) if device.type == "cuda" else None


def _record(
    device: torch.device, generators: Sequence[torch.Generator], function: Callable[[], None]
) -> Callable[[], None] | None:
    """Record the kernels that a function launches; None, with a warning, where that fails."""
    index = torch.cuda.current_device() if device.index is None else device.index
    drawn_from = [*generators, torch.cuda.default_generators[index]]
    states = [generator.clone_state() for generator in drawn_from]
    try:
        # The present stream is put back whatever happens, which torch does only after success. The
        # stream to record on is this device's; the one that torch keeps may be another's.
        with torch.cuda.device(index), torch.cuda.stream(torch.cuda.current_stream()):
            graph = torch.cuda.CUDAGraph()
            with warnings.catch_warnings():
                # Newer versions of torch notice for themselves who is drawn from.
                warnings.simplefilter("ignore")
                for generator in generators:
                    graph.register_generator_state(generator)
            with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
                function()
    except RuntimeError as failure:
        # What went wrong is found behind the error of ending a recording that had gone wrong.
        error = failure.__context__ or failure
        # A recording that breaks off leaves generators as if it were still going on.
        for generator, state in zip(drawn_from, states, strict=True):
            generator.graphsafe_set_state(state)
        warnings.warn(
            f"Training steps could not be recorded as a CUDA graph and are made one by one, which "
            f"is slower but equal: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return graph.replay
