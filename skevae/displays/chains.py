"""ChainsDisplay: traces of the prior's Markov chains, and whether they have mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from skevae.displays.checks import check_estimator, check_options, column_positions
from skevae.displays.drawing import CYCLE, import_pyplot, legend_above, make_panels, tidy
from skevae.samplers.diagnostics import split_r_hat
from skevae.utils.constraints import at_least

# Above this R-hat, chains have not mixed.
MAX_R_HAT = 1.05

# Number of chain lengths at which R-hat is computed, to show how it decreases.
N_CHECKS = 40

# Maximum number of chains in a trace: more cannot be distinguished.
MAX_TRACES = 6


class ChainsDisplay:
    r"""Traces of Markov chains, and split R-hat against their length.

    Chains that have mixed look alike: they overlap, and none stays in a region of its own. R-hat
    compares the variances between and within half chains; above about 1.05, the chains have not
    mixed.

    It is recommended to use `from_estimator` or `from_samples`. All parameters are stored as
    attributes.

    Parameters
    ----------
    samples : array-like of shape (n_steps, n_chains, n_features)
        States of the chains.
    steps : array-like of int of shape (n_checks,)
        Chain lengths at which R-hat was computed; the last one is n_steps.
    r_hat : array-like of shape (n_checks, n_features)
        Split R-hat of the chains up to each of these lengths.
    feature_names : list of str, default=None
        None is "column 0", "column 1" and so on.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_shown + 1,)
        One trace per feature shown, and R-hat in the last panel.
    figure_ : matplotlib Figure
    traces_ : list of list of matplotlib Line2D
        The chains of each trace, at most 6.
    r_hat_lines_ : list of matplotlib Line2D
        R-hat of each feature shown.
    threshold_line_ : matplotlib Line2D
        The line at 1.05.

    See Also
    --------
    skevae.GaussianBernoulliRBMPrior.run_chains : Runs the chains.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skevae import EnergyVAE
    >>> from skevae.displays import ChainsDisplay
    >>> vae = EnergyVAE(2, max_iter=5, random_state=0).fit(load_iris().data)
    >>> display = ChainsDisplay.from_estimator(vae, n_steps=100, random_state=0)
    >>> display.samples.shape
    (100, 4, 2)
    """

    def __init__(self, samples, steps, r_hat, *, feature_names=None):
        self.samples = samples
        self.steps = steps
        self.r_hat = r_hat
        self.feature_names = feature_names

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        features=3,
        n_chains=4,
        n_steps=500,
        burn_in=0,
        sampler=None,
        random_state=None,
        ax=None,
    ):
        """Run the Markov chains of a prior and plot them.

        Parameters
        ----------
        estimator : estimator
            A fitted prior with ``run_chains``, or an `EnergyVAE` with such a prior.
        features : int or array-like of int or str, default=3
            Traces that are shown: an int is their number at most, the first features; else the
            indices or names of features (of an `EnergyVAE`: of its latents).
        n_chains : int, default=4
            Number of chains; at least 2.
        n_steps : int, default=500
            Number of transitions that are kept; at least 4.
        burn_in : int, default=0
            Number of transitions before them. With 0, the traces show how long the chains depend on
            their starting points, which are draws from a Gaussian as broad as the data.
        sampler : str or sampler object, default=None
            As the parameter ``sampler`` of the prior. None uses the sampler of the fitted prior.
        random_state : int, RandomState instance or None, default=None
            None uses the ``random_state`` of the prior.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.

        Returns
        -------
        ChainsDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If its prior has no Markov chains.
        ValueError
            If a parameter is out of its range, or ``features`` names an unknown feature.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import GaussianBernoulliRBMPrior
        >>> from skevae.displays import ChainsDisplay
        >>> X = load_iris(as_frame=True).data
        >>> rbm = GaussianBernoulliRBMPrior(4, max_iter=5, random_state=0).fit(X)
        >>> display = ChainsDisplay.from_estimator(
        ...     rbm, features=["petal length (cm)"], sampler="langevin", n_steps=100
        ... )
        >>> len(display.traces_)
        1
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        check_estimator(estimator, [], cls.__name__, "")
        prior = getattr(estimator, "prior_", estimator)
        check_estimator(
            prior,
            ["run_chains"],
            cls.__name__,
            "Priors that are sampled exactly have no Markov chains; pass a "
            "GaussianBernoulliRBMPrior, a NeuralPrior or an EnergyVAE with one of them.",
        )
        # Check the features before running the chains.
        names = _names(prior, estimator)
        column_positions(features, names, "features", cls.__name__)
        check_options(cls.__name__, {"n_chains": [at_least(2)]}, n_chains=n_chains)
        chains = prior.run_chains(
            n_chains, n_steps, burn_in=burn_in, sampler=sampler, random_state=random_state
        )
        return cls.from_samples(chains.samples, feature_names=names, features=features, ax=ax)

    @classmethod
    def from_samples(cls, samples, *, feature_names=None, features=3, ax=None):
        """Plot given states of Markov chains.

        Parameters
        ----------
        samples : array-like of shape (n_steps, n_chains, n_features)
            At least 4 steps, as ``run_chains`` returns them.
        feature_names : list of str, default=None
            None is "column 0", "column 1" and so on.
        features : int or array-like of int or str, default=3
            Features to show: a maximum number of features (the first ones), or a list of indices or
            names.
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.

        Returns
        -------
        ChainsDisplay

        Raises
        ------
        ValueError
            If ``samples`` is not such an array, or ``features`` names an unknown feature.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from skevae.displays import ChainsDisplay
        >>> samples = np.random.RandomState(0).randn(200, 4, 3)
        >>> display = ChainsDisplay.from_samples(samples)
        >>> bool((display.r_hat[-1] < 1.05).all())
        True
        """
        import_pyplot(f"{cls.__name__}.from_samples")
        states = _checked_samples(samples)
        n_steps = len(states)
        steps = np.unique(np.linspace(min(n_steps, max(4, n_steps // 10)), n_steps, N_CHECKS))
        steps = np.unique(steps.astype(int))
        tensor = torch.from_numpy(states)
        r_hat = np.stack([split_r_hat(tensor[:n]).numpy() for n in steps.tolist()])
        display = cls(states, steps, r_hat, feature_names=feature_names)
        return display.plot(ax, features=features)

    def plot(self, ax=None, *, features=3):
        """Plot a trace for each feature, and R-hat.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of Axes, default=None
            Axes to draw on: one for each panel, or a single one to divide into panels. If None,
            create a new figure.
        features : int or array-like of int or str, default=3
            Features to show: a maximum number of features (the first ones), or a list of indices or
            names.

        Returns
        -------
        ChainsDisplay
            The display itself, with the artists as attributes.

        Raises
        ------
        ValueError
            If the arrays do not match, or ``features`` names an unknown feature.
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        import_pyplot(caller)
        samples, r_hat, names = self._checked()
        shown = column_positions(features, names, "features", caller)
        n_panels = len(shown) + 1
        axes = make_panels(
            ax, n_panels, 1, size=(7.0, 1.35 * n_panels + 0.9), caller=caller, sharex=True
        )[:, 0]
        self.axes_, self.figure_ = axes, axes[0].figure
        n_steps, n_chains = samples.shape[:2]
        steps = np.arange(1, n_steps + 1)
        self.traces_ = []
        for axis, j in zip(axes, shown, strict=False):
            lines = axis.plot(steps, samples[:, :MAX_TRACES, j], lw=0.7, alpha=0.8)
            for line, colour in zip(lines, CYCLE, strict=False):
                line.set_color(colour)
            axis.set_ylabel(names[j])
            self.traces_.append(lines)
        said = f", {MAX_TRACES} of them shown" if n_chains > MAX_TRACES else ""
        worst = int(np.argmax(np.nan_to_num(r_hat[-1], nan=-np.inf)))
        axes[0].set_title(
            rf"{n_chains} chains{said}; largest $\hat{{R}}$ of {len(names)}: "
            f"{r_hat[-1, worst]:.3f} ({names[worst]})",
            fontsize="medium",
            loc="left",
        )
        self._plot_r_hat(axes[-1], r_hat, shown, names)
        for axis in axes:
            tidy(axis)
        self.figure_.align_ylabels(axes)
        return self

    def _plot_r_hat(self, axis: Any, r_hat: np.ndarray, shown: list[int], names: list[str]) -> None:
        self.r_hat_lines_ = []
        for rank, j in enumerate(shown):
            # Other colours than those of the chains: these lines are features.
            (line,) = axis.plot(
                self.steps, r_hat[:, j], color="0.15", ls=DASHES[rank % len(DASHES)], label=names[j]
            )
            self.r_hat_lines_.append(line)
        self.threshold_line_ = axis.axhline(
            MAX_R_HAT, color=CYCLE[1], lw=1, label=f"{MAX_R_HAT}: not mixed above"
        )
        axis.set(xlabel="step", ylabel=r"split $\hat{R}$")
        legend_above(axis, ncols=2)

    def _checked(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        samples = _checked_samples(self.samples)
        r_hat, n_features = np.asarray(self.r_hat, dtype=float), samples.shape[2]
        if r_hat.shape != (len(self.steps), n_features):
            raise ValueError(
                f"r_hat of shape {r_hat.shape} must have a row for each of the {len(self.steps)} "
                f"steps and a column for each of the {n_features} features of samples."
            )
        names = self.feature_names
        names = [f"column {j}" for j in range(n_features)] if names is None else list(names)
        if len(names) != n_features:
            raise ValueError(
                f"feature_names has {len(names)} names, but samples have {n_features} features."
            )
        return samples, r_hat, names


DASHES = ("-", "--", ":", "-.")


def _checked_samples(samples: Any) -> np.ndarray:
    states = np.array(samples, dtype=float)
    if states.ndim != 3 or len(states) < 4 or 0 in states.shape:
        raise ValueError(
            f"samples of shape {states.shape} must be of shape (n_steps, n_chains, n_features) "
            "with at least 4 steps, as run_chains returns them."
        )
    return states


def _names(prior: Any, estimator: Any) -> list[str]:
    """Names of the dimensions of the chains: latents of an autoencoder, else columns."""
    if prior is not estimator:
        return [f"latent {j}" for j in range(prior.n_features_in_)]
    known = getattr(prior, "feature_names_in_", None)
    return [f"column {j}" for j in range(prior.n_features_in_)] if known is None else known.tolist()
