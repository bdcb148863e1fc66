"""Shared code of the displays: the late import of matplotlib, axes, and colours."""

from __future__ import annotations

from typing import Any

import numpy as np

# Okabe & Ito (2008): distinguishable with the common forms of colour blindness.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "0.35"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

# Petroff (2021), for classes: ten colours that can still be distinguished.
CLASS_COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)

# For densities: light where the density is low, so that points stay visible.
DENSITY_COLOURS = "Blues"


def import_pyplot(caller: str) -> Any:
    """Import matplotlib's pyplot, which is only needed for plotting.

    Parameters
    ----------
    caller : str
        Name of the caller, for the message.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f'{caller} needs matplotlib. Install it with `pip install "skevae[plots]"`.'
        ) from error
    return plt


def make_panels(
    ax: Any, n_rows: int, n_columns: int, *, size: tuple[float, float], caller: str, **options: Any
) -> np.ndarray:
    """Return a grid of axes to draw on.

    Parameters
    ----------
    ax : None, Axes or array-like of Axes
        If None, create a new figure. A single Axes is divided into the panels if there are several
        panels. Several Axes are used unchanged.
    n_rows, n_columns : int
    size : (width, height)
        Size of a new figure, in inches.
    caller : str
        Name of the caller, for messages.
    **options
        Passed to matplotlib's ``subplots`` if panels are created.

    Returns
    -------
    ndarray of Axes of shape (n_rows, n_columns)

    Raises
    ------
    TypeError
        If ``ax`` holds anything other than Axes.
    ValueError
        If the number of Axes is not the number of panels, or the Axes cannot be divided.
    """
    plt = import_pyplot(caller)
    if ax is None:
        return plt.subplots(
            n_rows, n_columns, figsize=size, layout="constrained", squeeze=False, **options
        )[1]
    given = np.array(ax, dtype=object).ravel()
    for item in given:
        if not hasattr(item, "get_subplotspec"):
            raise TypeError(
                f"ax={ax!r} of {caller} must be None, a matplotlib Axes or an array of Axes, as "
                "`matplotlib.pyplot.subplots` returns them."
            )
    if len(given) == n_rows * n_columns:
        return given.reshape(n_rows, n_columns)
    if len(given) != 1:
        raise ValueError(
            f"ax of {caller} has {len(given)} Axes, but there are {n_rows} x {n_columns} panels. "
            "Pass as many Axes as panels, or a single Axes to divide."
        )
    place = given[0].get_subplotspec()
    if place is None:
        raise ValueError(
            f"ax={ax!r} of {caller} was placed by hand and cannot be divided into {n_rows} x "
            f"{n_columns} panels. Pass an Axes made by `matplotlib.pyplot.subplots`."
        )
    # A layout engine makes space for labels; without one, margins must be reserved for them.
    free = given[0].figure.get_layout_engine() is not None
    spaces = {} if free else {"hspace": 0.6, "wspace": 0.5}
    given[0].set_axis_off()
    return place.subgridspec(n_rows, n_columns, **spaces).subplots(squeeze=False, **options)


def tidy(axis: Any) -> None:
    """Remove the top and right spines."""
    axis.spines[["top", "right"]].set_visible(False)


def legend_above(axis: Any, **options: Any) -> Any:
    """Place the legend above the axes, where it does not hide data."""
    settings = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "frameon": False, "ncols": 3}
    return axis.legend(**{**settings, "borderaxespad": 0.2, "columnspacing": 1.2, **options})


def thinned(n_rows: int, max_points: int) -> np.ndarray:
    """Sorted indices of at most ``max_points`` rows; the same ones in each call."""
    if n_rows <= max_points:
        return np.arange(n_rows)
    return np.sort(np.random.RandomState(0).permutation(n_rows)[:max_points])


def point_size(n_points: int) -> float:
    """Area of a point, in square points; smaller for more points."""
    return float(np.clip(3000 / max(1, n_points), 3, 14))
