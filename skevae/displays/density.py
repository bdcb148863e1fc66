"""DensityDisplay: the density of two columns, or real and sampled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions

from skevae.displays.checks import check_estimator, check_options
from skevae.displays.drawing import import_pyplot, make_panels
from skevae.displays.grid import SCALES, density_on_grid, draw_density, grid_axes, obstacle
from skevae.displays.pairs import coordinate, draw_pairs
from skevae.displays.tables import Table
from skevae.utils.constraints import at_least
from skevae.utils.sampling import seeded_sample


class DensityDisplay:
    """The density of two columns together with rows, or a pair plot of real and sampled rows.

    In a pair plot, histograms (bars, for categories) of the columns are on the diagonal, real rows
    below it, and sampled rows above it. For a good model, both sides are mirror images. Missing
    entries are omitted. Points of a category are spread randomly around its tick.

    It is recommended to use `from_estimator` or `from_samples`. All parameters are stored as
    attributes.

    Parameters
    ----------
    real : dict of str to array-like of shape (n_samples,)
        Columns of the real rows, by name: numbers with nan for missing entries, or categories with
        None. With a density, there are two columns.
    sampled : dict of str to array-like of shape (n_drawn,), default=None
        The same columns of sampled rows, for a pair plot.
    categories : dict of str to list, default=None
        The ordered categories of each categorical column.
    grid : pair of array-like of shape (n_points,), default=None
        Values of the first and of the second column at which the density was computed.
    log_density : array-like of shape (n_points, n_points), default=None
        Log-density in nats; its first axis is along the first column.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_columns, n_columns), or (1, 1) for a density
    ax_ : matplotlib Axes
        The first of the Axes.
    figure_ : matplotlib Figure
    mesh_ : matplotlib QuadMesh or None
        The density.
    points_ : matplotlib PathCollection or None
        The rows plotted on the density.
    marginals_ : dict of (int, str) to StepPatch or BarContainer
        In a pair plot, the histograms, by column and "real" or "sampled".
    scatters_ : dict of (int, int) to matplotlib PathCollection
        In a pair plot, the points, by row and column of the panel.

    See Also
    --------
    LatentDisplay : The same for the latents.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> from skevae.displays import DensityDisplay
    >>> X = load_iris(as_frame=True).data
    >>> vae = EnergyVAE(2, max_iter=5, random_state=0).fit(X)
    >>> display = DensityDisplay.from_estimator(vae, X)
    >>> display.axes_.shape
    (4, 4)
    """

    def __init__(self, real, *, sampled=None, categories=None, grid=None, log_density=None):
        self.real = real
        self.sampled = sampled
        self.categories = categories
        self.grid = grid
        self.log_density = log_density

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        features=5,
        kind="auto",
        n_samples=1000,
        grid_resolution=50,
        n_draws=None,
        scale="density",
        random_state=None,
        ax=None,
    ):
        """Plot the density of a fitted estimator, or rows drawn from it, together with rows of X.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator with ``score_samples`` and ``sample``: an `EnergyVAE`, a prior
            estimator, or a density estimator of scikit-learn.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Real rows.
        features : int or array-like of int or str, default=5
            Columns to show: a maximum number of columns (the first ones), or a list of indices or
            names.
        kind : {"auto", "density", "pairs"}, default="auto"
            "density" needs two continuous columns. If X has other columns, these are integrated
            out, which needs an estimator that accepts missing entries. "pairs" is the pair plot.
            "auto" is "density" if possible, else "pairs".
        n_samples : int, default=1000
            Number of sampled rows in a pair plot, and maximum number of rows of X that are drawn as
            points (a random subset if X has more). Histograms use all rows of X.
        grid_resolution : int, default=50
            Number of grid points along each column.
        n_draws : int, default=None
            Number of importance draws of an `EnergyVAE` for each grid point. None is its
            ``n_score_draws``; fewer draws are faster.
        scale : {"density", "log-density"}, default="density"
            Quantity shown by the colours. "log-density", in nats, shows the tails, down to 12 nats
            below the maximum.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples. None uses the ``random_state`` of the estimator.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.

        Returns
        -------
        DensityDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it lacks ``score_samples`` or ``sample``.
        ValueError
            If X does not have the columns of ``fit``, ``features`` names an unknown column, or
            ``kind="density"`` is used without exactly two continuous columns.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from skevae import GaussianBernoulliRBMPrior
        >>> from skevae.datasets import toy_density
        >>> from skevae.displays import DensityDisplay
        >>> X = toy_density("8gaussians").sample(500, random_state=0)
        >>> rbm = GaussianBernoulliRBMPrior(8, max_iter=20, random_state=0).fit(X)
        >>> display = DensityDisplay.from_estimator(rbm, X, grid_resolution=40)
        >>> display.log_density.shape
        (40, 40)
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        check_estimator(
            estimator,
            ["score_samples", "sample"],
            cls.__name__,
            "Pass a fitted EnergyVAE, prior or density estimator.",
        )
        _check(cls.__name__, kind, scale, n_samples, grid_resolution)
        table = Table(X)
        _check_width(estimator, table, cls.__name__)
        chosen = table.positions(features, cls.__name__)
        reason = obstacle(estimator, table, chosen)
        if kind == "density" and reason:
            raise ValueError(
                f"kind='density' of {cls.__name__} needs two continuous columns, but {reason}. "
                "Use kind='pairs', or select two columns by features=."
            )
        if kind == "pairs" or reason:
            drawn = Table(seeded_sample(estimator, n_samples, random_state))
            return cls._of_tables(table, drawn, chosen).plot(ax, max_points=n_samples)
        columns = {table.names[j]: table.column(j).values for j in chosen}
        grid = grid_axes(estimator, chosen, columns, grid_resolution)
        log_density = density_on_grid(estimator, table, chosen, grid, n_draws)
        display = cls(columns, grid=grid, log_density=log_density)
        return display.plot(ax, scale=scale, max_points=n_samples)

    @classmethod
    def from_samples(cls, X, X_sampled, *, features=5, max_points=1000, ax=None):
        """Plot real and sampled rows, for any model.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Real rows.
        X_sampled : array-like or DataFrame of shape (n_drawn, n_features)
            Rows drawn from a model, with the same columns as X.
        features : int or array-like of int or str, default=5
            Columns to show: a maximum number of columns (the first ones), or a list of indices or
            names.
        max_points : int, default=1000
            Maximum number of rows of each kind that are drawn as points.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.

        Returns
        -------
        DensityDisplay

        Raises
        ------
        ValueError
            If the tables have different columns, or ``features`` names an unknown column.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.mixture import GaussianMixture
        >>> from skevae.displays import DensityDisplay
        >>> X = load_iris().data
        >>> drawn, _ = GaussianMixture(3, random_state=0).fit(X).sample(300)
        >>> display = DensityDisplay.from_samples(X, drawn, features=[0, 2, 3])
        >>> display.axes_.shape
        (3, 3)
        """
        import_pyplot(f"{cls.__name__}.from_samples")
        table = Table(X)
        chosen = table.positions(features, cls.__name__)
        return cls._of_tables(table, Table(X_sampled), chosen).plot(ax, max_points=max_points)

    @classmethod
    def _of_tables(cls, table: Table, drawn: Table, chosen: list[int]) -> DensityDisplay:
        if table.names != drawn.names:
            raise ValueError(
                f"The sampled rows have the columns {drawn.names}, but X has {table.names}. Pass "
                "both with the same columns in the same order."
            )
        columns = {table.names[j]: (table.column(j), drawn.column(j)) for j in chosen}
        for name, (real, new) in columns.items():
            if (real.categories is None) != (new.categories is None):
                raise ValueError(
                    f"{name!r} holds numbers in one of the tables and categories in the other. "
                    "Convert it to one kind."
                )
        return cls(
            {name: real.values for name, (real, _) in columns.items()},
            sampled={name: new.values for name, (_, new) in columns.items()},
            categories={name: c.categories for name, (c, _) in columns.items() if c.categories},
        )

    def plot(self, ax=None, *, scale="density", max_points=1000):
        """Plot the density if there is one, else the pair plot.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.
        scale : {"density", "log-density"}, default="density"
            Quantity shown by the colours of a density.
        max_points : int, default=1000
            Maximum number of rows of each kind that are drawn as points (a random subset if there
            are more).

        Returns
        -------
        DensityDisplay
            The display itself, with the artists as attributes.

        Raises
        ------
        ValueError
            If there is neither a density of two columns nor sampled rows.
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        import_pyplot(caller)
        check_options(
            caller,
            {"scale": [StrOptions(set(SCALES))], "max_points": [at_least(1)]},
            scale=scale,
            max_points=max_points,
        )
        self.mesh_ = self.points_ = None
        self.marginals_, self.scatters_ = {}, {}
        if self.log_density is None:
            self._plot_pairs(ax, max_points, caller)
        else:
            self._plot_density(ax, scale, max_points, caller)
        self.ax_ = self.axes_[0, 0]
        self.figure_ = self.ax_.figure
        return self

    def _plot_density(self, ax: Any, scale: str, max_points: int, caller: str) -> None:
        columns = {name: np.asarray(values, dtype=float) for name, values in self.real.items()}
        log_density = np.asarray(self.log_density, dtype=float)
        shape = tuple(len(points) for points in self.grid or ())
        if len(columns) != 2 or log_density.shape != shape or 0 in shape:
            raise ValueError(
                f"A density takes two columns in real and a log_density of the shape of grid, but "
                f"there are {len(columns)} columns, and the shapes are {log_density.shape} and "
                f"{shape}."
            )
        self.axes_ = make_panels(ax, 1, 1, size=(5.4, 4.4), caller=caller)
        self.mesh_, self.points_ = draw_density(
            self.axes_[0, 0], columns, self.grid, log_density, scale, max_points
        )

    def _plot_pairs(self, ax: Any, max_points: int, caller: str) -> None:
        if self.sampled is None or list(self.sampled) != list(self.real):
            raise ValueError(
                f"sampled must have the columns of real ({', '.join(self.real)}), or there must "
                "be a log_density."
            )
        categories = self.categories or {}
        columns = [
            coordinate(name, {"real": real, "sampled": self.sampled[name]}, categories.get(name))
            for name, real in self.real.items()
        ]
        n = len(columns)
        # Two titles side by side need a minimum width.
        side = max(5.4, 1.9 * n + 0.7)
        self.axes_ = make_panels(ax, n, n, size=(side, 0.92 * side), caller=caller)
        self.marginals_, self.scatters_ = draw_pairs(self.axes_, columns, max_points)


def _check(caller: str, kind: Any, scale: Any, n_samples: Any, grid_resolution: Any) -> None:
    check_options(
        caller,
        {
            "kind": [StrOptions({"auto", "density", "pairs"})],
            "scale": [StrOptions(set(SCALES))],
            "n_samples": [at_least(1)],
            "grid_resolution": [at_least(2)],
        },
        kind=kind,
        scale=scale,
        n_samples=n_samples,
        grid_resolution=grid_resolution,
    )


def _check_width(estimator: Any, table: Table, caller: str) -> None:
    n_features = getattr(estimator, "n_features_in_", len(table.names))
    if n_features != len(table.names):
        raise ValueError(
            f"X of {caller} has {len(table.names)} columns, but {type(estimator).__name__} was "
            f"fitted with {n_features}. Pass all columns, and select some by features=."
        )
