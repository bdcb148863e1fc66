"""What the processes that make one fit have to have in common."""

from __future__ import annotations

from typing import Any

from skevae.utils.ranks import Ranks

# Parameters in which they may differ.
OF_A_PROCESS = {"checkpoint_dir", "device", "max_time", "random_state", "verbose"}


def check_same_fit(ranks: Ranks, estimator: Any, *rest: Any) -> None:
    """Raise on all ranks unless all of them make the same fit.

    Parameters
    ----------
    ranks : Ranks
    estimator : estimator
        Compared by its type and by parameters that are numbers, strings or booleans.
    *rest
        What else has to be the same.

    Raises
    ------
    ValueError
        Says what differs.
    """
    params = estimator.get_params(deep=False)
    plain = {k: v for k, v in params.items() if isinstance(v, bool | int | float | str)}
    ranks.agree("the kind of fit", (type(estimator).__name__, *rest))
    ranks.agree(
        "the parameters of the estimator",
        {k: v for k, v in plain.items() if k not in OF_A_PROCESS},
    )
    # All have a directory or none, since files take an exchange of states.
    ranks.agree("having a checkpoint_dir", params.get("checkpoint_dir") is not None)
