"""The log-Jacobian between the rows of X and the standardised rows that are trained on."""

from __future__ import annotations

import numpy as np

from skevae.estimators.bounds import Bounds
from skevae.estimators.rows import Rows
from skevae.estimators.standardizer import Standardizer
from skevae.utils.memory import rows_per_piece
from skevae.utils.ranks import Ranks
from skevae.utils.weights import unpacked


def mean_log_jacobian(
    rows: Rows,
    *,
    standardizer: Standardizer,
    bounds: Bounds,
    complete: bool,
    weighted: bool,
    ranks: Ranks,
) -> float:
    """Mean over rows of what brings their log-density to the scale of X, in nats.

    Each row has a term for each observed entry.

    Parameters
    ----------
    rows : Rows
        Standardised; the rows of this rank.
    standardizer : Standardizer
    bounds : Bounds
    complete : bool
        Whether no entry of any row is missing.
    weighted : bool
        Whether the last column holds weights.
    ranks : Ranks
    """
    if complete and bounds.are_open:
        return -standardizer.log_volume
    total = weight = 0.0
    for part in rows.split(rows_per_piece(rows.shape[1])):
        x, weights = unpacked(part, weighted)
        mapped = standardizer.rows(x, np.float64)
        values = standardizer.row_log_jacobians(mapped) + bounds.log_derivatives(mapped).sum(1)
        own = np.ones(len(x)) if weights is None else weights.cpu().numpy()
        total, weight = total + float(own @ values), weight + float(own.sum())
    return ranks.average(total / weight if weight else 0.0, weight)
