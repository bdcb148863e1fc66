"""A density on a grid over two columns: computation and drawing for `DensityDisplay`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import get_tags

from skevae.displays.drawing import DENSITY_COLOURS, VERMILION, point_size, thinned
from skevae.displays.tables import Table

# Margin on each side, as a fraction of the range of the rows.
MARGIN = 0.1

# Distance of the first point from a bound of the column, as a fraction of the margin.
EDGE = 0.01

# Log-densities this many nats below the maximum are cut off; they would use most of the colours.
DEPTH = 12.0

# Quantities that colours can show: the values, their label, and the lowest value with a colour.
SCALES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str, Callable[[np.ndarray], float]]] = {
    "density": (np.exp, "density", lambda values: 0.0),
    "log-density": (np.asarray, "log-density (nats)", lambda values: values.max() - DEPTH),
}


def obstacle(estimator: Any, table: Table, chosen: list[int]) -> str:
    """Tell why the density of the chosen columns cannot be computed; empty if it can be."""
    if len(chosen) != 2:
        return f"{len(chosen)} are chosen"
    for j in chosen:
        if not table.column(j).is_continuous:
            return f"{table.names[j]!r} holds categories or integers"
    named = [
        parameter
        for parameter in ("categorical_features", "integer_features")
        if not isinstance(getattr(estimator, parameter, None), str | None)
    ]
    if named:
        # Only the estimator knows which columns these are; a pair plot works for all kinds.
        return f"{named[0]} may name one of them"
    if len(table.names) > 2 and not get_tags(estimator).input_tags.allow_nan:
        return f"{type(estimator).__name__} cannot leave out the other columns of X"
    return ""


def support(estimator: Any, j: int) -> tuple[float, float]:
    """Bounds between which column j of the fitted model has a density."""
    members = getattr(estimator, "estimators_", None)
    if members is not None:
        low, high = np.transpose([support(member, j) for member in members])
        return low.max(), high.min()
    bounds = getattr(estimator, "_bounds", None)
    return (-np.inf, np.inf) if bounds is None else (bounds.low[j], bounds.high[j])


def grid_points(
    values: np.ndarray, name: str, n_points: int, within: tuple[float, float]
) -> np.ndarray:
    """Evenly spaced values over the range of a column, with a margin, inside of its bounds."""
    present = values[np.isfinite(values)]
    if not len(present):
        raise ValueError(f"X has no finite value in {name!r}, so the range is unknown.")
    low, high = present.min(), present.max()
    margin = MARGIN * (high - low) if high > low else 1.0
    edge = EDGE * margin
    return np.linspace(
        max(low - margin, within[0] + edge), min(high + margin, within[1] - edge), n_points
    )


def grid_axes(
    estimator: Any, chosen: list[int], columns: dict[str, np.ndarray], n_points: int
) -> list[np.ndarray]:
    """Points of a grid over the chosen columns."""
    return [
        grid_points(values, name, n_points, support(estimator, j))
        for j, (name, values) in zip(chosen, columns.items(), strict=True)
    ]


def density_on_grid(
    estimator: Any, table: Table, chosen: list[int], grid: list[np.ndarray], n_draws: int | None
) -> np.ndarray:
    """Log-density of two columns on a grid, with the other columns integrated out.

    Parameters
    ----------
    estimator : estimator
    table : Table
    chosen : list of int
        The two columns.
    grid : list of two ndarrays
    n_draws : int or None
        Number of importance draws, for an estimator that uses them.

    Returns
    -------
    ndarray of shape (n_first, n_second)
    """
    points = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1)
    rows = table.grid(chosen, points.reshape(-1, 2))
    if n_draws is not None and hasattr(estimator, "log_likelihood"):
        scores = estimator.log_likelihood(rows, n_draws=n_draws).log_likelihood
    else:
        scores = estimator.score_samples(rows)
    return np.asarray(scores, dtype=float).reshape(points.shape[:2])


def draw_density(
    axis: Any,
    columns: dict[str, np.ndarray],
    grid: Any,
    log_density: np.ndarray,
    scale: str,
    max_points: int,
) -> tuple[Any, Any]:
    """Draw the density as colours and the rows as points; return the mesh and the points."""
    convert, label, lowest = SCALES[scale]
    values = convert(log_density)
    first, second = (np.asarray(points, dtype=float) for points in grid)
    low = lowest(values)
    mesh = axis.pcolormesh(first, second, values.T, cmap=DENSITY_COLOURS, vmin=low, shading="auto")
    # If there are values below the lowest colour, the colour bar has a pointed end.
    bar = axis.figure.colorbar(
        mesh, ax=axis, label=label, extend="min" if values.min() < low else "neither"
    )
    bar.outline.set_visible(False)
    rows = np.stack(list(columns.values()), axis=1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    rows = rows[thinned(len(rows), max_points)]
    points = axis.scatter(
        *rows.T, s=point_size(len(rows)), color=VERMILION, alpha=0.6, linewidths=0
    )
    names = list(columns)
    axis.set(xlabel=names[0], ylabel=names[1])
    axis.set(xlim=(first[0], first[-1]), ylim=(second[0], second[-1]))
    return mesh, points
