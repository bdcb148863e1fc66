"""What all displays keep to: scikit-learn's convention, axes of any kind, and errors in time."""

import importlib
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

import skevae.displays
from skevae import EnergyVAE
from skevae.displays import (
    ChainsDisplay,
    DensityDisplay,
    DiagnosticsDisplay,
    LatentDisplay,
    ReconstructionDisplay,
    TrainingDisplay,
)

# A call of each display, and how many panels it has.
CALLS = {
    TrainingDisplay: (lambda m, X, **kw: TrainingDisplay.from_estimator(m, **kw), 4),
    DensityDisplay: (
        lambda m, X, **kw: DensityDisplay.from_estimator(m, X, features=2, kind="pairs", **kw),
        4,
    ),
    ReconstructionDisplay: (
        lambda m, X, **kw: ReconstructionDisplay.from_estimator(m, X, **kw),
        1,
    ),
    LatentDisplay: (
        lambda m, X, **kw: LatentDisplay.from_estimator(
            m, X, grid_resolution=5, n_samples=50, **kw
        ),
        1,
    ),
    DiagnosticsDisplay: (lambda m, X, **kw: DiagnosticsDisplay.from_estimator(m, X[:9], **kw), 3),
    ChainsDisplay: (
        lambda m, X, **kw: ChainsDisplay.from_estimator(m, n_steps=20, **kw),
        3,
    ),
}
DISPLAYS = pytest.mark.parametrize("kind", CALLS)


def axes_of(display):
    return np.ravel(getattr(display, "axes_", getattr(display, "ax_", None)))


def test_every_display_is_tried():
    assert {kind.__name__ for kind in CALLS} == set(skevae.displays.__all__)


@DISPLAYS
def test_a_call_draws_a_new_figure_or_reuses_axes(kind, vae, iris, plt):
    call, n_panels = CALLS[kind]
    display = call(vae, iris)
    assert isinstance(display, kind)
    assert len(axes_of(display)) == n_panels
    assert all(axis.figure is display.figure_ for axis in axes_of(display))

    figure, axes = plt.subplots(1, n_panels, squeeze=False)
    again = display.plot(axes[0] if n_panels > 1 else axes[0, 0])
    assert again is display
    assert display.figure_ is figure
    assert list(axes_of(display)) == list(axes[0])

    # One Axes is divided, whether or not labels find their space by themselves.
    for layout in (None, "constrained"):
        figure, axes = plt.subplots(1, 2, layout=layout)
        place = axes[1].get_subplotspec()
        for axis in axes_of(call(vae, iris, ax=axes[1])):
            assert axis.figure is figure
            assert axis.get_subplotspec().get_topmost_subplotspec() == place


@DISPLAYS
def test_axes_are_named(kind, vae, iris):
    axes = axes_of(CALLS[kind][0](vae, iris))
    if kind is not ReconstructionDisplay:
        assert any(axis.get_xlabel() for axis in axes)
        assert axes[0].get_ylabel()


@DISPLAYS
def test_unfitted_and_foreign_estimators(kind, vae, iris, plt):
    call, _ = CALLS[kind]
    with pytest.raises(NotFittedError, match="not fitted"):
        call(clone(vae), iris)
    with pytest.raises(TypeError, match="estimator instance"):
        call("vae", iris)
    # What a line does not have is named, with what to pass instead.
    line = LinearRegression().fit(iris[["petal width (cm)"]], iris["petal length (cm)"])
    with pytest.raises((TypeError, ValueError), match=r"LinearRegression .*(P|p)ass"):
        call(line, iris)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "kind", [DensityDisplay, ReconstructionDisplay, LatentDisplay, DiagnosticsDisplay]
)
def test_wrong_columns(kind, vae, iris, plt):
    with pytest.raises(ValueError, match="columns|features|image_shape|feature names"):
        CALLS[kind][0](vae, iris.iloc[:, :3])
    assert not plt.get_fignums()


def test_axes_that_do_not_suit(vae, plt):
    for ax, error, message in [
        ("here", TypeError, "ax='here' of TrainingDisplay.plot must be None"),
        (plt.subplots(1, 3)[1], ValueError, "has 3 Axes, but there are 2 x 2 panels"),
        (plt.figure().add_axes([0, 0, 1, 1]), ValueError, "placed by hand"),
    ]:
        with pytest.raises(error, match=message):
            TrainingDisplay.from_estimator(vae, ax=ax)


def test_the_estimator_is_left_as_it_is(vae, iris, global_rng_untouched):
    before = vae.score_samples(iris[:5])
    for call, _ in CALLS.values():
        call(vae, iris)
    np.testing.assert_array_equal(vae.score_samples(iris[:5]), before)


def test_only_plotting_needs_matplotlib(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("skevae.displays"):
            monkeypatch.delitem(sys.modules, name)
    # As if it were not installed.
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    displays = importlib.import_module("skevae.displays")
    assert displays.TrainingDisplay is not TrainingDisplay
    shown = displays.DiagnosticsDisplay([0.5], [10.0], [0.1])
    with pytest.raises(ImportError, match="^DiagnosticsDisplay.plot needs matplotlib") as told:
        shown.plot()
    assert 'pip install "skevae[plots]"' in str(told.value)
    with pytest.raises(ImportError, match="^DensityDisplay.from_samples needs matplotlib"):
        displays.DensityDisplay.from_samples(np.eye(3), np.eye(3))


def test_a_model_with_one_latent_is_told(iris, plt):
    vae = EnergyVAE(1, hidden_layer_sizes=(4,), prior="normal", max_iter=1).fit(iris)
    with pytest.raises(ValueError, match=r"components=\(0, 1\) .* n_components of at least 2"):
        LatentDisplay.from_estimator(vae, iris)
    assert not plt.get_fignums()
