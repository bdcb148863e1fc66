"""A pair plot of real and sampled rows, for `DensityDisplay`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skevae.displays.drawing import (
    BLUE,
    VERMILION,
    point_size,
    thinned,
    tidy,
)

# With more categories than this, bars cannot be read; the rarest categories are merged.
MAX_CATEGORIES = 8
OTHERS = "others"

# Half the width over which points of one category are spread, to make them visible.
JITTER = 0.28

# Maximum number of bins of an integer column. All bins contain equally many integers.
MAX_INTEGER_BINS = 30

# Location of the points of each kind.
SIDES = {"real": " (below the diagonal)", "sampled": " (above it)"}

KINDS = {"real": BLUE, "sampled": VERMILION}


class Coordinate(NamedTuple):
    """Positions of the values of one column on an axis.

    Attributes
    ----------
    name : str
    positions : dict of str to ndarray of shape (n_samples,)
        Positions of "real" and "sampled" rows, with nan for missing entries. For a category, its
        index.
    edges : ndarray
        Edges of the bins of the histogram; for categories, halfway between them.
    labels : list of str or None
        Labels of categories.
    """

    name: str
    positions: dict[str, np.ndarray]
    edges: np.ndarray
    labels: list[str] | None

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the axis."""
        low, high = self.edges[0], self.edges[-1]
        margin = 0.0 if self.labels else 0.04 * (high - low)
        return low - margin, high + margin

    def points(self, kind: str, random: np.random.RandomState) -> np.ndarray:
        """Coordinates of points; points of categories are spread."""
        positions = self.positions[kind]
        if self.labels is None:
            return positions
        return positions + random.uniform(-JITTER, JITTER, len(positions))

    def shares(self, kind: str) -> np.ndarray:
        """Heights of the bins: a density for numbers, fractions for categories."""
        positions = self.positions[kind]
        present = positions[np.isfinite(positions)]
        counts = np.histogram(present, self.edges)[0] / max(1, len(present))
        return counts if self.labels else counts / np.diff(self.edges)


def coordinate(
    name: str, values: dict[str, np.ndarray], categories: Sequence[Any] | None
) -> Coordinate:
    """Place the real and sampled values of a column on one axis.

    Parameters
    ----------
    name : str
    values : dict of str to ndarray of shape (n_samples,)
        Values of "real" and "sampled" rows.
    categories : sequence or None
        Ordered categories of a categorical column.
    """
    if categories is None:
        numbers = {kind: np.asarray(v, dtype=float) for kind, v in values.items()}
        return Coordinate(name, numbers, _bin_edges(np.concatenate(list(numbers.values()))), None)
    counts = {c: np.count_nonzero([v == c for v in values["real"]]) for c in categories}
    kept = list(categories)
    if len(kept) > MAX_CATEGORIES:
        frequent = sorted(kept, key=lambda c: -counts[c])[: MAX_CATEGORIES - 1]
        kept = [c for c in kept if c in frequent]
    codes: dict[Any, float] = dict.fromkeys(categories, float(len(kept)))
    codes.update({c: float(k) for k, c in enumerate(kept)})
    codes[None] = np.nan
    # A category that does not occur in the real rows is counted as "other".
    unseen = any(v not in codes for column in values.values() for v in column)
    others = [OTHERS] if unseen or len(kept) < len(categories) else []
    labels = [str(c) for c in kept] + others
    positions = {
        kind: np.array([codes.get(v, float(len(kept))) for v in column])
        for kind, column in values.items()
    }
    return Coordinate(name, positions, np.arange(len(labels) + 1) - 0.5, labels)


def _bin_edges(values: np.ndarray) -> np.ndarray:
    present = values[np.isfinite(values)]
    if not len(present):
        return np.array([0.0, 1.0])
    low, high = present.min(), present.max()
    if (present == np.rint(present)).all():
        width = np.ceil((high - low + 1) / MAX_INTEGER_BINS)
        return np.arange(low, high + width + 1, width) - 0.5
    if high == low:
        return np.array([low - 0.5, high + 0.5])
    n_bins = np.clip(len(np.histogram_bin_edges(present, "auto")) - 1, 10, 60)
    return np.linspace(low, high, n_bins + 1)


def draw_pairs(
    axes: np.ndarray, columns: list[Coordinate], max_points: int
) -> tuple[dict[tuple[int, str], Any], dict[tuple[int, int], Any]]:
    """Draw the panels: marginals on the diagonal, real rows below it, sampled rows above it.

    Parameters
    ----------
    axes : ndarray of Axes of shape (n_columns, n_columns)
    columns : list of Coordinate
    max_points : int
        Maximum number of points of each kind.

    Returns
    -------
    marginals : dict of (int, str) to artist
        By column and "real" or "sampled".
    scatters : dict of (int, int) to matplotlib PathCollection
        By row and column of the panel.
    """
    # The spread of points has no meaning; it only has to be the same in each call.
    random = np.random.RandomState(0)
    rows = {kind: thinned(len(columns[0].positions[kind]), max_points) for kind in KINDS}
    points = {
        (kind, j): column.points(kind, random)[rows[kind]]
        for kind in KINDS
        for j, column in enumerate(columns)
    }
    size = point_size(max(map(len, rows.values())))
    marginals, scatters = {}, {}
    for i, j in np.ndindex(axes.shape):
        across, up = columns[j], columns[i]
        axis: Any = axes[i, j]
        if i == j:
            marginals.update({(i, kind): a for kind, a in _draw_marginal(axis, across).items()})
        else:
            kind = "real" if i > j else "sampled"
            scatters[i, j] = axis.scatter(
                points[kind, j], points[kind, i], s=size, color=KINDS[kind], alpha=0.5, linewidths=0
            )
            axis.set_ylim(up.limits)
        axis.set_xlim(across.limits)
        tidy(axis)
        _label(axes, i, j, columns)
    for kind, place in (("real", axes[0, 0]), ("sampled", axes[0, -1])):
        # Two texts in the colours of the points: a legend would not fit into a panel.
        words = SIDES[kind] if len(columns) > 1 else ""
        loc = "left" if kind == "real" else "right"
        place.set_title(f"{kind} rows{words}", loc=loc, color=KINDS[kind], fontsize="small")
    return marginals, scatters


def _draw_marginal(axis: Any, column: Coordinate) -> dict[str, Any]:
    drawn = {}
    for index, kind in enumerate(KINDS):
        heights = column.shares(kind)
        if column.labels is None:
            # Real rows as an area and sampled rows as an outline, so that both stay visible.
            style = {"fill": kind == "real", "alpha": 0.45 if kind == "real" else 1.0}
            drawn[kind] = axis.stairs(heights, column.edges, color=KINDS[kind], lw=1.3, **style)
        else:
            places = np.arange(len(heights)) + 0.4 * (index - 0.5)
            alpha = 0.45 if kind == "real" else 0.9
            drawn[kind] = axis.bar(places, heights, 0.4, color=KINDS[kind], alpha=alpha)
    axis.set_ylim(bottom=0)
    axis.set_yticks([])
    return drawn


def _label(axes: np.ndarray, i: int, j: int, columns: list[Coordinate]) -> None:
    """Label panels at the edges, and hide the ticks of the others."""
    axis, last = axes[i, j], len(columns) - 1
    _ticks(axis.xaxis, columns[j], shown=i == last)
    if i == last:
        axis.set_xlabel(columns[j].name)
    if i == j:
        if i == 0:
            axis.set_ylabel("share" if columns[0].labels else "density")
        return
    # The first row of panels starts with a marginal, so its axis is on the right.
    shown = j == 0 or (i == 0 and j == last)
    _ticks(axis.yaxis, columns[i], shown=shown)
    if shown:
        axis.set_ylabel(columns[i].name)
    if shown and j == last:
        axis.yaxis.set_label_position("right")
        axis.yaxis.tick_right()
        axis.spines["right"].set_visible(True)
        axis.spines["left"].set_visible(False)


def _ticks(axis: Any, column: Coordinate, shown: bool) -> None:
    """Set ticks: names of categories, or values of numbers."""
    if column.labels is None:
        axis.set_major_locator(_few_ticks())
    else:
        axis.set_ticks(range(len(column.labels)), column.labels)
        # Horizontal names would overlap.
        crowded = sum(map(len, column.labels)) > 12 and axis.axis_name == "x"
        if crowded:
            axis.set_tick_params(rotation=90)
    axis.set_tick_params(labelbottom=shown, labelleft=shown)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3)
