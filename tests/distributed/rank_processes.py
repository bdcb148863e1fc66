"""Functions run by several processes that form a group, as `torchrun` would start them."""

import multiprocessing
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

# Of a process that is stuck; a test takes a few seconds.
PATIENCE = 120

# The first optimizer of a process imports the compiler of torch, which takes longer than the fit.
PRELOADED = ["skevae", "skevae.distributed", "pandas", "torch._dynamo"]


def _child(function, rank, size, place, arguments, pipe):
    warnings.simplefilter("ignore")
    limit = timedelta(seconds=PATIENCE / 2)
    dist.init_process_group(
        "gloo", init_method=f"file://{place}", rank=rank, world_size=size, timeout=limit
    )
    try:
        outcome = function(rank, *arguments)
    except BaseException as error:
        outcome = error
    pipe.send(outcome)
    pipe.close()
    dist.destroy_process_group()


def on_ranks(function, *arguments, size=2):
    """Call `function(rank, *arguments)` in each process; what each returned or raised.

    None stands for a process that was killed.

    The function has to be at the top level of its module, whose folder is on the path.
    """
    # Forked by a server that computes nothing, and imports once what all of them need.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        place, started = Path(folder) / "store", []
        for rank in range(size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_child, args=(function, rank, size, place, arguments, sender)
            )
            process.start()
            sender.close()
            started.append((process, receiver))
        outcomes = []
        for _, receiver in started:
            try:
                outcomes.append(receiver.recv() if receiver.poll(PATIENCE) else "no answer")
            except EOFError:
                outcomes.append(None)
        for process, _ in started:
            process.join(10)
            if process.is_alive():
                process.kill()
        return outcomes


def returned(outcomes):
    """Raise the first error, or return what was returned."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes
