"""Images are those of X and those that the model makes of them, each in its place."""

import numpy as np
import pandas as pd
import pytest

from skevae.displays import ReconstructionDisplay

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", [None, (8, 8), (4, 16)])
def test_images_are_the_rows(artist, images, shape):
    display = ReconstructionDisplay.from_estimator(
        artist, images, image_shape=shape, n_images=5, n_columns=3
    )
    height, width = shape or (8, 8)
    mosaic = display.image_.get_array()
    known = ~np.ma.getmaskarray(mosaic)
    assert known.sum() == 2 * 5 * height * width
    made = artist.reconstruct(images[:5])
    tops = [round(tick - (height - 1) / 2) for tick in display.ax_.get_yticks()]
    gap = (mosaic.shape[1] - 3 * width) // 2
    for index in range(5):
        group, column = divmod(index, 3)
        for top, rows in zip(tops[2 * group : 2 * group + 2], (images, made), strict=True):
            left = column * (width + gap)
            part = mosaic[top : top + height, left : left + width]
            np.testing.assert_array_equal(part, rows[index].reshape(height, width))
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    assert labels == ["original", "reconstruction"] * 2
    assert display.image_.get_clim() == (images[:5].min(), images[:5].max())


def test_rows_of_a_frame_are_images_too(artist, images):
    display = ReconstructionDisplay.from_estimator(artist, images.tolist(), n_images=2)
    np.testing.assert_array_equal(display.originals, images[:2])
    frame = pd.DataFrame(images[:3])
    np.testing.assert_array_equal(
        ReconstructionDisplay.from_estimator(artist, frame, n_images=2).originals, images[:2]
    )


def test_colours():
    rows = np.linspace(0, 255, 2 * 12).reshape(2, 12)
    display = ReconstructionDisplay(rows, 300 - rows, image_shape=(2, 2, 3)).plot()
    mosaic = display.image_.get_array()
    assert mosaic.shape == (5, 5, 3)
    np.testing.assert_allclose(mosaic[:2, :2], rows[0].reshape(2, 2, 3) / 255)
    np.testing.assert_allclose(mosaic[:, 2], 1.0)
    # Beyond the range of the originals there is no colour.
    np.testing.assert_allclose(
        mosaic[3:, :2], np.clip((300 - rows[0]) / 255, 0, 1).reshape(2, 2, 3)
    )


@pytest.mark.parametrize(
    "shape, error, message",
    [
        ((7, 8), ValueError, r"image_shape=\(7, 8\) has 56 numbers, but the rows have 64"),
        ((64,), ValueError, r"image_shape=\(64,\) must be \(height, width\)"),
        ((4, 4, 4), ValueError, r"image_shape=\(4, 4, 4\) must be"),
        ((-8, -8), ValueError, "at least 1"),
        (8, TypeError, "image_shape=8 must be"),
        ((8.0, 8.0), TypeError, "of integers"),
    ],
)
def test_wrong_shapes(artist, images, shape, error, message, plt):
    with pytest.raises(error, match=message):
        ReconstructionDisplay.from_estimator(artist, images, image_shape=shape)
    assert not plt.get_fignums()


def test_bad_arguments(artist, images, plt):
    with pytest.raises(ValueError, match="rows of 5 numbers are no squares.*image_shape="):
        ReconstructionDisplay(np.ones((2, 5)), np.ones((2, 5))).plot()
    with pytest.raises(ValueError, match=r"shape \(2, 4\) and reconstructions of shape \(1, 4\)"):
        ReconstructionDisplay(np.ones((2, 4)), np.ones((1, 4))).plot()
    with pytest.raises(ValueError, match="'n_images' parameter .* Got 0"):
        ReconstructionDisplay.from_estimator(artist, images, n_images=0)
    assert not plt.get_fignums()


def test_what_is_no_table_is_refused(artist):
    for X in (None, 3, []):
        with pytest.raises(ValueError, match="2D array"):
            ReconstructionDisplay.from_estimator(artist, X)
