"""Rows that are given different numbers of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Parts of all draws that a row may be given, and the part that a pilot run takes to find out which.
STAGES = (1 / 16, 1 / 4, 1)


PILOT = 1 / 16


# Below it no error is known.
MIN_PILOT_DRAWS = 25


def draws_needed(error: Tensor, n_pilot: int, stages: Sequence[int], tol: float) -> Tensor:
    """Choose for each row the fewest draws by which its error should be at most ``tol``.

    The pilot's own draws may not be those of the estimate. Of weights that are bounded, as those of
    a posterior that is too wide, a few that happen to be large have a small spread: to end there is
    to end on luck, and a score whose expectation is too low would come out too high.

    Parameters
    ----------
    error : Tensor of shape (n,)
        Standard errors of ``n_pilot`` draws. Rows with NaN get all draws.
    n_pilot : int
    stages : sequence of int
        Numbers of draws to choose from, ascending.
    tol : float

    Returns
    -------
    Tensor of shape (n,)
        Of int64.
    """
    choices = torch.tensor(stages, device=error.device)
    enough = error[:, None] * (n_pilot / choices).sqrt() <= tol
    enough[:, -1] = True
    return choices[enough.to(torch.uint8).argmax(1)]


def by_number_of_draws(
    evaluate: Callable[[Tensor, int], dict[str, Tensor]], n_draws: Tensor
) -> dict[str, Tensor]:
    """Evaluate rows that are given different numbers of draws.

    Parameters
    ----------
    evaluate : callable (indices of rows, number of draws) -> dict of Tensor of shape (rows,)
    n_draws : Tensor of shape (n,)

    Returns
    -------
    dict of Tensor of shape (n,)
    """
    values: dict[str, Tensor] = {}
    for n in n_draws.unique().tolist():
        (rows,) = (n_draws == n).nonzero(as_tuple=True)
        for name, part in evaluate(rows, n).items():
            values.setdefault(name, part.new_empty(len(n_draws)))[rows] = part
    return values
