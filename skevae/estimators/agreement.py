"""Check that all processes of a fit use the same parameters."""

from __future__ import annotations

from typing import Any

from skevae.utils.ranks import Ranks

# Parameters that may differ.
OF_A_PROCESS = {"checkpoint_dir", "device", "max_time", "random_state", "verbose"}


def check_same_fit(ranks: Ranks, estimator: Any, *rest: Any) -> None:
    """Raise on all ranks unless all of them run the same fit.

    Parameters
    ----------
    ranks : Ranks
    estimator : estimator
        Compared by type and by parameters that are numbers, strings or booleans.
    *rest
        Other values that must be the same.

    Raises
    ------
    ValueError
        If they differ; the message tells in what.
    """
    params = estimator.get_params(deep=False)
    plain = {k: v for k, v in params.items() if isinstance(v, bool | int | float | str)}
    ranks.agree("the kind of fit", (type(estimator).__name__, *rest))
    ranks.agree(
        "the parameters of the estimator",
        {k: v for k, v in plain.items() if k not in OF_A_PROCESS},
    )
    # Either all ranks have a directory or none, because saving exchanges states between ranks.
    ranks.agree("having a checkpoint_dir", params.get("checkpoint_dir") is not None)
