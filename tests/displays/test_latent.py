"""Points are posterior means; colours are the density of the law of the latents."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.mixture import GaussianMixture

from skevae.displays import LatentDisplay

pytestmark = pytest.mark.slow


def on_cells(function, edges):
    """Values of a function of two latents at the centres of the cells, the second one down."""
    first, second = ((e[1:] + e[:-1]) / 2 for e in edges)
    return np.array([function(np.column_stack([first, np.full(len(first), v)])) for v in second])


@pytest.mark.parametrize("components", [(0, 1), (1, 0)])
def test_two_latents(vae, iris, components):
    display = LatentDisplay.from_estimator(
        vae, iris, components=components, grid_resolution=9, n_samples=100, random_state=0
    )
    (points,) = display.points_
    np.testing.assert_array_equal(points.get_offsets(), vae.transform(iris)[:, components])

    def density(Z):
        return np.exp(vae.prior_.score_samples(Z[:, components]))

    mesh = display.mesh_.get_array().reshape(9, 9)
    np.testing.assert_allclose(mesh, on_cells(density, display.edges), rtol=1e-10)
    assert display.ax_.get_xlabel() == f"latent {components[0]}"


def test_more_latents_are_a_histogram_of_the_prior(deep, iris):
    display = LatentDisplay.from_estimator(
        deep, iris, components=(2, 0), grid_resolution=6, n_samples=500, random_state=1
    )
    drawn = deep.prior_.sample(500, random_state=1)[:, [2, 0]]
    across, up = display.edges
    counts = np.zeros((6, 6))
    for x, y in drawn:
        i, j = np.searchsorted(across, x) - 1, np.searchsorted(up, y) - 1
        if 0 <= i < 6 and 0 <= j < 6:
            counts[j, i] += 1
    area = (across[1] - across[0]) * (up[1] - up[0])
    mesh = display.mesh_.get_array().reshape(6, 6)
    np.testing.assert_allclose(mesh, counts / 500 / area)
    # All points and nearly all samples are in the picture.
    assert counts.sum() >= 0.99 * 500
    means = deep.transform(iris)[:, [2, 0]]
    for edges, values in zip(display.edges, means.T, strict=True):
        assert edges[0] < values.min() and values.max() < edges[-1]


def test_the_law_fitted_ex_post_takes_the_place_of_the_prior(vae, iris):
    model = clone(vae).set_params(ex_post=GaussianMixture(2), max_iter=1).fit(iris)
    display = LatentDisplay.from_estimator(model, iris, grid_resolution=4, n_samples=50)

    def density(Z):
        return np.exp(model.ex_post_.score_samples(Z))

    mesh = display.mesh_.get_array().reshape(4, 4)
    np.testing.assert_allclose(mesh, on_cells(density, display.edges), rtol=1e-10)
    assert "ex-post density" in [axis.get_ylabel() for axis in display.figure_.axes]


def test_classes_are_coloured(vae, iris):
    y = np.repeat(["x", "y", "z"], 50)
    display = LatentDisplay.from_estimator(vae, iris, y=y, grid_resolution=4, n_samples=50)
    means = vae.transform(iris)
    for index, points in enumerate(display.points_):
        np.testing.assert_array_equal(points.get_offsets(), means[50 * index : 50 * index + 50])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["x", "y", "z"]
    colours = {tuple(points.get_facecolor()[0]) for points in display.points_}
    assert len(colours) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"components": (0, 2)}, r"components=\(0, 2\) .* of the 2 that the model has"),
        ({"components": (1, 1)}, "two different latents"),
        ({"components": (0, 1, 2)}, "the numbers of two latents"),
        ({"components": 0}, "components=0 must be"),
        ({"components": (0, "1")}, "the numbers of two latents"),
        ({"y": [1, 2]}, r"y of shape \(2,\) .* each of the 150 rows"),
        ({"y": np.arange(150)}, "y has 150 different values"),
        ({"grid_resolution": 1}, "'grid_resolution' parameter .* Got 1"),
    ],
)
def test_bad_arguments(vae, iris, options, message, plt):
    with pytest.raises(ValueError, match=message):
        LatentDisplay.from_estimator(vae, iris, **options)
    assert not plt.get_fignums()
