"""Evaluation of rows with different numbers of draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Fractions of the draws that a row may get, and the fraction that is used in the pilot run.
STAGES = (1 / 16, 1 / 4, 1)


PILOT = 1 / 16


# With fewer draws, the standard error is unknown.
MIN_PILOT_DRAWS = 25


def draws_needed(error: Tensor, n_pilot: int, stages: Sequence[int], tol: float) -> Tensor:
    """Choose for each row the smallest number of draws with an expected error of at most ``tol``.

    The draws of the pilot run must not be used in the estimate. For bounded weights, such as those
    of a posterior that is too wide, a few draws that happen to be large have a small variance.
    Stopping there would select lucky draws, and the score would be too high in expectation.

    Parameters
    ----------
    error : Tensor of shape (n,)
        Standard errors of ``n_pilot`` draws. Rows with NaN get all draws.
    n_pilot : int
    stages : sequence of int
        Numbers of draws to choose from, in ascending order.
    tol : float

    Returns
    -------
    Tensor of shape (n,)
        int64.
    """
    choices = torch.tensor(stages, device=error.device)
    enough = error[:, None] * (n_pilot / choices).sqrt() <= tol
    enough[:, -1] = True
    return choices[enough.to(torch.uint8).argmax(1)]


def by_number_of_draws(
    evaluate: Callable[[Tensor, int], dict[str, Tensor]], n_draws: Tensor
) -> dict[str, Tensor]:
    """Evaluate rows with different numbers of draws.

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
