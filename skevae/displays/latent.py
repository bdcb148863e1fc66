"""LatentDisplay: posterior means on the density of the latents."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from skevae.displays.checks import check_estimator, check_options
from skevae.displays.drawing import (
    CLASS_COLOURS,
    DENSITY_COLOURS,
    VERMILION,
    import_pyplot,
    make_panels,
    point_size,
)
from skevae.utils.arrays import is_missing
from skevae.utils.constraints import at_least
from skevae.utils.sampling import seeded_sample

# Margin on each side, as a fraction of the range of the posterior means and the samples.
MARGIN = 0.05

# Quantiles of the samples that are always within the plot.
OUTER = (0.002, 0.998)


class LatentDisplay:
    """Posterior means of rows on the density of the latents, for two latents.

    In dark regions without points, `sample` draws rows unlike those of X. Points on a white
    background show rows that the prior has not learned. Points are means; the posteriors are wider.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    means : array-like of shape (n_samples, 2)
        Posterior means of the two latents.
    edges : pair of array-like of shape (n_cells + 1,)
        Edges of the cells along the first and the second latent.
    density : array-like of shape (n_cells, n_cells)
        Density of the two latents in each cell; the first axis is along the first latent.
    components : (int, int), default=(0, 1)
        Indices of the latents, for the labels.
    y : array-like of shape (n_samples,), default=None
        Class of each row, for the colours.
    law : str, default="prior"
        Name of the distribution, for the label.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    mesh_ : matplotlib QuadMesh
        The density.
    points_ : list of matplotlib PathCollection
        The means, one collection per class.

    See Also
    --------
    skevae.EnergyVAE.transform : Computes posterior means.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> from skevae.displays import LatentDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> vae = EnergyVAE(2, max_iter=5, random_state=0).fit(X)
    >>> display = LatentDisplay.from_estimator(vae, X, y=y)
    >>> display.density.shape
    (60, 60)
    """

    def __init__(self, means, edges, density, *, components=(0, 1), y=None, law="prior"):
        self.means = means
        self.edges = edges
        self.density = density
        self.components = components
        self.y = y
        self.law = law

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        components=(0, 1),
        y=None,
        grid_resolution=60,
        n_samples=20_000,
        random_state=None,
        ax=None,
    ):
        """Encode rows and plot their posterior means on the density of the latents.

        Parameters
        ----------
        estimator : EnergyVAE
            A fitted model with at least two latents. If it has an ``ex_post_``, its density is
            shown instead of that of ``prior_``.
        X : array-like or DataFrame of shape (n_samples, n_features)
        components : (int, int), default=(0, 1)
            The two latents.
        y : array-like of shape (n_samples,), default=None
            Class of each row, for the colours; at most 10 classes.
        grid_resolution : int, default=60
            Number of cells along each latent.
        n_samples : int, default=20_000
            Number of samples of the latents. With more than two latents, the density of the two is
            a histogram of the samples. With exactly two, it is ``score_samples`` at the centres of
            the cells, and the samples only determine the range of the plot.
        random_state : int, RandomState instance or None, default=None
            Seed of the samples. None uses the ``random_state`` of ``prior_``.
        ax : matplotlib Axes, default=None
            Axes to draw on. If None, create a new figure.

        Returns
        -------
        LatentDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it lacks ``transform`` or ``prior_``.
        ValueError
            If X does not have the columns of ``fit``, ``components`` are not two latents of the
            model, or y does not have an entry for each row.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> from skevae.displays import LatentDisplay
        >>> X = load_iris().data
        >>> vae = EnergyVAE(4, max_iter=5, random_state=0).fit(X)
        >>> display = LatentDisplay.from_estimator(vae, X, components=(1, 3))
        >>> display.ax_.get_xlabel()
        'latent 1'
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        check_estimator(
            estimator, ["transform", "prior_"], cls.__name__, "Pass a fitted EnergyVAE."
        )
        check_options(
            cls.__name__,
            {"grid_resolution": [at_least(2)], "n_samples": [at_least(1)]},
            grid_resolution=grid_resolution,
            n_samples=n_samples,
        )
        means = np.asarray(estimator.transform(X))
        first, second = _two_latents(components, means.shape[1])
        chosen = means[:, [first, second]]
        _classes(y, len(means))
        ex_post = getattr(estimator, "ex_post_", None)
        law = estimator.prior_ if ex_post is None else ex_post
        drawn = np.asarray(seeded_sample(law, n_samples, random_state))[:, [first, second]]
        # The range also covers samples: regions of the prior without rows must be visible.
        edges = [_edges(*pair, grid_resolution) for pair in zip(chosen.T, drawn.T, strict=True)]
        if means.shape[1] == 2:
            density = _density_on_grid(law, edges, flipped=(first, second) == (1, 0))
        else:
            counts = np.histogramdd(drawn, bins=edges)[0]
            # Normalised by all samples, including those outside the plot, so that it is a density.
            density = counts / len(drawn) / np.multiply.outer(*map(np.diff, edges))
        display = cls(
            chosen,
            edges,
            density,
            components=(first, second),
            y=y,
            law="prior" if ex_post is None else "ex-post",
        )
        return display.plot(ax)

    def plot(self, ax=None):
        """Plot the means on the density.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. If None, create a new figure.

        Returns
        -------
        LatentDisplay
            The display itself, with the artists as attributes.

        Raises
        ------
        ValueError
            If y does not have an entry for each row, or has more than 10 classes.
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        import_pyplot(caller)
        means = np.asarray(self.means)
        classes = _classes(self.y, len(means))
        self.ax_ = make_panels(ax, 1, 1, size=(5.4, 4.4), caller=caller)[0, 0]
        self.figure_ = self.ax_.figure
        self.mesh_ = self.ax_.pcolormesh(
            *self.edges, np.asarray(self.density).T, cmap=DENSITY_COLOURS, vmin=0
        )
        bar = self.figure_.colorbar(self.mesh_, ax=self.ax_, label=f"{self.law} density")
        bar.outline.set_visible(False)
        size = max(8.0, 1.5 * point_size(len(means)))
        self.points_ = [
            self.ax_.scatter(
                *means[rows].T,
                s=size,
                color=colour,
                label=label,
                edgecolors="white",
                linewidths=0.25,
            )
            for label, rows, colour in classes
        ]
        first, second = self.components
        self.ax_.set(xlabel=f"latent {first}", ylabel=f"latent {second}")
        if self.y is not None:
            self.ax_.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False, markerscale=2
            )
        return self


def _two_latents(components: Any, n_latent: int) -> tuple[int, int]:
    """Check the indices of the two latents."""
    chosen = list(components) if np.ndim(components) == 1 else []
    whole = all(isinstance(c, Integral) and not isinstance(c, bool) for c in chosen)
    if len(chosen) != 2 or not whole:
        raise ValueError(f"components={components!r} must be the numbers of two latents: (0, 1).")
    first, second = chosen
    if not (0 <= first < n_latent and 0 <= second < n_latent) or first == second:
        raise ValueError(
            f"components={components!r} must be two different latents of the {n_latent} that the "
            f"model has, from 0 to {n_latent - 1}. (A model with one latent cannot be displayed: "
            "fit it with n_components of at least 2.)"
        )
    return int(first), int(second)


def _classes(y: Any, n_rows: int) -> list[tuple[str | None, np.ndarray, str]]:
    """Label, rows and colour of each class; without classes, one group without a label."""
    if y is None:
        return [(None, np.ones(n_rows, dtype=bool), VERMILION)]
    # Missing labels are a class of their own, as text cannot be compared with nan.
    labels = np.asarray(y)
    if labels.dtype == object:
        labels = np.array(["missing" if is_missing(label) else label for label in labels])
    if labels.shape != (n_rows,):
        raise ValueError(
            f"y of shape {labels.shape} must have one class for each of the {n_rows} rows of X."
        )
    present = np.unique(labels)
    if len(present) > len(CLASS_COLOURS):
        raise ValueError(
            f"y has {len(present)} different values, but only {len(CLASS_COLOURS)} can be "
            "distinguished by colour. Pass fewer classes, or bin the values."
        )
    return [
        (str(label), labels == label, colour)
        for label, colour in zip(present, CLASS_COLOURS, strict=False)
    ]


def _edges(means: np.ndarray, drawn: np.ndarray, n_cells: int) -> np.ndarray:
    """Edges of cells that cover the means and all but the farthest samples, with a margin."""
    reach = [*np.quantile(drawn, OUTER), means.min(), means.max()]
    low, high = min(reach), max(reach)
    # All rows may have the same mean, if a latent is not used.
    margin = MARGIN * (high - low) if high > low else 1.0
    return np.linspace(low - margin, high + margin, n_cells + 1)


def _density_on_grid(law: Any, edges: list[np.ndarray], flipped: bool) -> np.ndarray:
    """Density at the centres of cells, from the distribution of two latents."""
    centres = [(e[1:] + e[:-1]) / 2 for e in edges]
    points = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1)
    rows = points.reshape(-1, 2)[:, ::-1] if flipped else points.reshape(-1, 2)
    return np.exp(law.score_samples(np.ascontiguousarray(rows))).reshape(points.shape[:2])
