"""DiagnosticsDisplay: the reliability of the importance sampling behind a score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from skevae.displays.checks import check_estimator
from skevae.displays.drawing import BLUE, VERMILION, import_pyplot, make_panels, tidy

# Above it, neither an estimate nor its standard error is reliable (Vehtari et al. 2024).
MAX_PARETO_K = 0.7


class Panel(NamedTuple):
    """How one diagnostic is drawn: label and scale of its axis, and which values can be drawn."""

    label: str
    scale: str
    drawable: Callable[[np.ndarray], np.ndarray]


def _linear(axis: Any) -> None:
    axis.set_yscale("linear")


def _logarithmic(axis: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    # Values often span less than a decade, where powers of ten alone would give no tick.
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


SCALES = {"linear": _linear, "log": _logarithmic}

PANELS = {
    "pareto_k": Panel(r"Pareto $\hat{k}$", "linear", np.isfinite),
    "effective_sample_size": Panel("effective sample size (draws)", "log", np.isfinite),
    # A standard error of 0, from equal weights, cannot be drawn on a logarithmic axis.
    "standard_error": Panel("standard error (nats)", "log", lambda v: np.isfinite(v) & (v > 0)),
}


class DiagnosticsDisplay:
    r"""Diagnostics of the importance sampling of each row: Pareto k-hat, sample size and error.

    Rows whose k-hat is above 0.7 are drawn in another colour: neither their score nor its standard
    error is reliable. More draws (``n_draws``) or longer training can help.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    pareto_k : array-like of shape (n_samples,)
        Shape parameter of the tail of the weights of each row. Infinity and minus infinity are
        drawn as triangles at the edge.
    effective_sample_size : array-like of shape (n_samples,)
        Effective number of draws of each row.
    standard_error : array-like of shape (n_samples,)
        Standard error of each row in nats. Infinity and 0 are drawn as triangles at the edge.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (3,)
        The Axes of k-hat, effective sample size and standard error.
    figure_ : matplotlib Figure
    points_ : dict of str to matplotlib PathCollection
        The finite points of each diagnostic ("pareto_k" and so on), in the order of the rows.
    share_above_ : float
        Fraction of the rows with a k-hat above 0.7, without rows whose k-hat is nan.
    threshold_line_ : matplotlib Line2D
        The line at 0.7.

    See Also
    --------
    skevae.EnergyVAE.log_likelihood : Computes these diagnostics.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> from skevae.displays import DiagnosticsDisplay
    >>> X = load_iris().data
    >>> vae = EnergyVAE(2, max_iter=5, random_state=0).fit(X)
    >>> display = DiagnosticsDisplay.from_estimator(vae, X)
    >>> 0 <= display.share_above_ <= 1
    True
    """

    def __init__(self, pareto_k, effective_sample_size, standard_error):
        self.pareto_k = pareto_k
        self.effective_sample_size = effective_sample_size
        self.standard_error = standard_error

    @classmethod
    def from_estimator(cls, estimator, X, *, n_draws=None, random_state=None, ax=None):
        """Score rows and plot the diagnostics of their scores.

        Parameters
        ----------
        estimator : EnergyVAE
            A fitted model.
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows to score.
        n_draws : int, default=None
            Number of importance draws for each row, at least 25. None is the estimator's
            ``n_score_draws``.
        random_state : int, RandomState instance or None, default=None
            None uses the noise of ``score_samples``, which was fixed in ``fit``.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.

        Returns
        -------
        DiagnosticsDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it has no ``log_likelihood``.
        ValueError
            If X does not have the columns of ``fit``, or ``n_draws`` is too small for a k-hat.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> from skevae.displays import DiagnosticsDisplay
        >>> X = load_iris().data
        >>> vae = EnergyVAE(2, max_iter=5, random_state=0).fit(X)
        >>> display = DiagnosticsDisplay.from_estimator(vae, X[:20], n_draws=100)
        >>> display.standard_error.shape
        (20,)
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        check_estimator(
            estimator,
            ["log_likelihood"],
            cls.__name__,
            "Pass a fitted EnergyVAE. The scores of prior estimators are no estimates and have no "
            "diagnostics.",
        )
        result = estimator.log_likelihood(X, n_draws=n_draws, random_state=random_state)
        return cls(**{name: result[name] for name in PANELS}).plot(ax)

    def plot(self, ax=None):
        """Plot the diagnostics against the row index.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.

        Returns
        -------
        DiagnosticsDisplay
            The display itself, with the artists as attributes.

        Raises
        ------
        ValueError
            If the diagnostics have different lengths, or no row has a k-hat.
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        import_pyplot(caller)
        values = self._checked()
        axes = make_panels(ax, 1, 3, size=(10.8, 3.3), caller=caller)[0]
        self.axes_, self.figure_ = axes, axes[0].figure
        k = values["pareto_k"]
        above = k > MAX_PARETO_K
        known = ~np.isnan(k)
        self.share_above_ = float(above[known].mean())
        self.points_ = {}
        for axis, (name, panel) in zip(axes, PANELS.items(), strict=True):
            SCALES[panel.scale](axis)
            self.points_[name] = _draw_rows(axis, values[name], panel, above)
            # All rows, including those without a point.
            margin = 0.03 * len(k) + 0.5
            axis.set(xlabel="row", ylabel=panel.label, xlim=(-margin, len(k) - 1 + margin))
            axis.locator_params(axis="x", integer=True)
            tidy(axis)
        self.threshold_line_ = axes[0].axhline(MAX_PARETO_K, color="0.3", linestyle="--", lw=1)
        axes[0].set_title(
            rf"$\hat{{k}}$ > {MAX_PARETO_K}: {self.share_above_:.1%} of {known.sum()} rows",
            fontsize="medium",
            color=VERMILION if above.any() else BLUE,
        )
        return self

    def _checked(self) -> dict[str, np.ndarray]:
        values = {name: np.asarray(getattr(self, name), dtype=float) for name in PANELS}
        shapes = {name: array.shape for name, array in values.items()}
        if len(set(shapes.values())) > 1 or values["pareto_k"].ndim != 1:
            raise ValueError(
                f"The diagnostics have the shapes {shapes}. Pass those of the same rows, one "
                "number per row, as log_likelihood returns them."
            )
        if np.isnan(values["pareto_k"]).all():
            raise ValueError(
                "pareto_k is nan for every row: there are too few draws for it, or no rows. Use "
                "n_draws of at least 25."
            )
        return values


def _draw_rows(axis: Any, values: np.ndarray, panel: Panel, above: np.ndarray) -> Any:
    """Draw a point for each row, and triangles at the edges for values beyond the axis."""
    rows = np.arange(len(values))
    colours = np.where(above, VERMILION, BLUE)
    inside = panel.drawable(values)
    points = axis.scatter(
        rows[inside], values[inside], s=9, c=colours[inside].tolist(), linewidths=0
    )
    # Horizontal coordinates are rows, vertical ones fractions of the axis.
    edges = axis.get_xaxis_transform()
    for place, marker, beyond in (
        (0.985, "^", values == np.inf),
        (0.015, "v", ~inside & (values < np.inf)),
    ):
        if beyond.any():
            axis.scatter(
                rows[beyond],
                np.full(beyond.sum(), place),
                s=16,
                c=colours[beyond].tolist(),
                marker=marker,
                transform=edges,
                linewidths=0,
            )
    return points
