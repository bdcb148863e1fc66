"""Means and variances of columns, from those of parts of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Mean, variance and number of observed entries of each column.
Moments = tuple[np.ndarray, np.ndarray, np.ndarray | float]


def pooled_moments(parts: Sequence[Moments]) -> Moments:
    """Moments of all rows (Chan et al. 1979).

    Parameters
    ----------
    parts : sequence of (mean, variance, count)
        Arrays of shape (n_features,); a count can be a number. If a column has no entries in a
        part, its count is 0 and its moments there are ignored.
    """
    if len(parts) == 1:
        return parts[0]
    shape = np.shape(parts[0][0])
    means, variances = (np.array([part[k] for part in parts]) for k in (0, 1))
    counts = np.array([np.broadcast_to(part[2], shape) for part in parts], dtype=float)
    # The moments of no entries are nan.
    means, variances = np.where(counts > 0, (means, variances), 0.0)
    whole = np.maximum(counts.sum(0), np.finfo(float).tiny)
    centre = (counts * means).sum(0) / whole
    spread = (counts * (variances + (means - centre) ** 2)).sum(0) / whole
    return centre, spread, counts.sum(0)
