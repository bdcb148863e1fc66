"""TrainingDisplay: the terms of the bound over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from skevae.displays.checks import check_estimator, check_options
from skevae.displays.drawing import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILION,
    import_pyplot,
    make_panels,
    tidy,
)
from skevae.utils.constraints import at_least

# The panels, and the terms of `history_` in each with their labels and colours. Only the bounds
# have similar values and share a panel.
PANELS: dict[str, dict[str, tuple[str, str]]] = {
    "bound": {
        "objective": ("training", BLUE),
        "validation": ("held out", VERMILION),
    },
    "reconstruction": {"reconstruction": (r"$E[\ln\,p(x\,|\,z)]$", GREEN)},
    "energy of the prior": {"energy": ("mean energy", PURPLE)},
    "partition function of the prior": {"log_partition": (r"$\ln\,Z$", GREY)},
}


class TrainingDisplay:
    """Training curves: the bound, held-out bound, reconstruction, energy and ln Z per epoch.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    history : dict of str to array-like of shape (n_epochs,)
        ``history_`` of an estimator. The terms "objective", "validation", "reconstruction",
        "energy" and "log_partition" are drawn; nan if an epoch has no such term.
    kept_epoch : int, default=None
        Epoch, counted from 1, whose state was kept. None marks no epoch.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        One panel each for the bound, the reconstruction, the energy and ln Z, if they are in
        ``history``.
    figure_ : matplotlib Figure
    lines_ : dict of str to matplotlib Line2D
        The curve of each term.
    kept_lines_ : list of matplotlib Line2D
        The lines at the kept epoch, one per panel; empty without ``kept_epoch``.

    See Also
    --------
    DiagnosticsDisplay : Reliability of the scores of the trained model.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> from skevae.displays import TrainingDisplay
    >>> vae = EnergyVAE(2, max_iter=5, random_state=0).fit(load_iris().data)
    >>> display = TrainingDisplay.from_estimator(vae)
    >>> sorted(display.lines_)
    ['energy', 'log_partition', 'objective', 'reconstruction', 'validation']
    """

    def __init__(self, history, *, kept_epoch=None):
        self.history = history
        self.kept_epoch = kept_epoch

    @classmethod
    def from_estimator(cls, estimator, *, kept_epoch="auto", first_epoch=1, ax=None):
        """Plot the training curves of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted `EnergyVAE` or prior estimator, with ``history_``.
        kept_epoch : int, "auto" or None, default="auto"
            Epoch to mark as the one whose state was kept. "auto" is ``best_n_iter_`` of the
            estimator; if it is 0, no epoch is marked.
        first_epoch : int, default=1
            First epoch that is drawn. The values of the first epochs are often so low that
            differences between later epochs are not visible.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.

        Returns
        -------
        TrainingDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If it has no history, or an epoch is out of range.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import GaussianBernoulliRBMPrior
        >>> from skevae.displays import TrainingDisplay
        >>> rbm = GaussianBernoulliRBMPrior(4, max_iter=5, random_state=0)
        >>> display = TrainingDisplay.from_estimator(rbm.fit(load_iris().data))
        >>> len(display.axes_)
        3
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        check_estimator(estimator, [], cls.__name__, "")
        if not hasattr(estimator, "history_"):
            raise ValueError(
                f"{type(estimator).__name__} has no history_ to display. A prior inside an "
                "EnergyVAE has no history: pass the EnergyVAE. For a Pipeline or a search, "
                "pass the fitted estimator inside it."
            )
        history = estimator.history_
        if isinstance(kept_epoch, str) and kept_epoch == "auto":
            # It is 0 if training diverged and no epoch was kept.
            kept_epoch = getattr(estimator, "best_n_iter_", 0) or None
        return cls(history, kept_epoch=kept_epoch).plot(ax, first_epoch=first_epoch)

    def plot(self, ax=None, *, first_epoch=1):
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.
        first_epoch : int, default=1
            First epoch that is drawn.

        Returns
        -------
        TrainingDisplay
            The display itself, with the artists as attributes.

        Raises
        ------
        ValueError
            If ``history`` has no epochs or none of the known terms, or an epoch is out of range.
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        import_pyplot(caller)
        n_epochs, panels = self._checked(first_epoch)
        n_panels = len(panels)
        n_rows, n_columns = (2, 2) if n_panels == 4 else (1, n_panels)
        size = (3.6 * n_columns + 0.4, 2.7 * n_rows + 0.4)
        axes = make_panels(ax, n_rows, n_columns, size=size, caller=caller)
        self.axes_, self.figure_ = axes.ravel(), axes[0, 0].figure
        self.lines_, self.kept_lines_ = {}, []
        epochs = np.arange(first_epoch, n_epochs + 1)
        for axis, (title, terms) in zip(self.axes_, panels.items(), strict=True):
            for name, (label, colour) in terms.items():
                values = np.asarray(self.history[name], dtype=float)[first_epoch - 1 :]
                # A single epoch is not visible as a line.
                marker = "o" if np.isfinite(values).sum() == 1 else None
                (self.lines_[name],) = axis.plot(
                    epochs, values, color=colour, label=label, marker=marker
                )
            if self.kept_epoch is not None and self.kept_epoch >= first_epoch:
                mark = axis.axvline(self.kept_epoch, color="0.5", linestyle=":", zorder=0)
                mark.set_label(f"kept: epoch {self.kept_epoch}")
                self.kept_lines_.append(mark)
            axis.set_title(title, fontsize="medium")
            axis.set(xlabel="epoch", ylabel="nats per row" if len(terms) > 1 else f"{label} (nats)")
            axis.locator_params(axis="x", integer=True)
            tidy(axis)
        # One legend for all: the other panels have a single curve, named by their axis.
        self.axes_[0].legend(loc="best", frameon=False)
        return self

    def _checked(self, first_epoch: Any) -> tuple[int, dict[str, dict[str, tuple[str, str]]]]:
        """Number of epochs, and the panels of the existing terms."""
        if not isinstance(self.history, Mapping):
            raise TypeError(
                f"history must be a dict of terms, as history_ of an estimator, got "
                f"{type(self.history).__name__}."
            )
        known = {
            title: {name: style for name, style in terms.items() if name in self.history}
            for title, terms in PANELS.items()
        }
        panels = {title: terms for title, terms in known.items() if terms}
        lengths = {len(self.history[name]) for terms in panels.values() for name in terms}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(
                f"history with the terms {sorted(self.history)} has no epochs to display, or terms "
                "of different lengths. Pass the history_ of an estimator fitted for at least "
                "one epoch."
            )
        n_epochs = lengths.pop()
        in_range = f"must be an epoch from 1 to {n_epochs}, the last one of history"
        for name, epoch in (("first_epoch", first_epoch), ("kept_epoch", self.kept_epoch)):
            optional = [None] if name == "kept_epoch" else []
            check_options(type(self).__name__, {name: [at_least(1), *optional]}, **{name: epoch})
            if epoch is not None and epoch > n_epochs:
                raise ValueError(f"{name}={epoch!r} {in_range}.")
        return n_epochs, panels
