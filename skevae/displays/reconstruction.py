"""ReconstructionDisplay: images and their reconstructions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.utils import check_array

from skevae.displays.checks import check_estimator, check_options
from skevae.displays.drawing import BLUE, VERMILION, import_pyplot, make_panels
from skevae.utils.constraints import at_least

# Gap between two images, as a fraction of their width.
GAP = 0.12


class ReconstructionDisplay:
    """Images and their reconstructions by the model.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    originals : array-like of shape (n_images, n_pixels)
    reconstructions : array-like of shape (n_images, n_pixels)
    image_shape : (height, width) or (height, width, 3), default=None
        Shape of an image. With 3, rows hold the red, green and blue values of each pixel next to
        each other. None is a square of grey pixels.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    image_ : matplotlib AxesImage
        All images in one: rows of originals, each above its reconstructions.

    See Also
    --------
    skevae.EnergyVAE.reconstruct : Computes reconstructions.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skevae import EnergyVAE
    >>> from skevae.displays import ReconstructionDisplay
    >>> X = load_digits().data[:200] / 16
    >>> vae = EnergyVAE(8, likelihood="bernoulli", max_iter=2, random_state=0).fit(X)
    >>> display = ReconstructionDisplay.from_estimator(vae, X, image_shape=(8, 8))
    >>> display.reconstructions.shape
    (10, 64)
    """

    def __init__(self, originals, reconstructions, *, image_shape=None):
        self.originals = originals
        self.reconstructions = reconstructions
        self.image_shape = image_shape

    @classmethod
    def from_estimator(
        cls, estimator, X, *, image_shape=None, n_images=10, n_columns=10, cmap="gray_r", ax=None
    ):
        """Reconstruct rows and plot the reconstructions below the originals.

        Parameters
        ----------
        estimator : estimator
            A fitted estimator with ``reconstruct``: an `EnergyVAE` or a
            `GaussianBernoulliRBMPrior`.
        X : array-like or DataFrame of shape (n_samples, n_pixels)
            One image per row.
        image_shape : (height, width) or (height, width, 3), default=None
            Shape of an image. With 3, rows hold the red, green and blue values of each pixel next
            to each other. None is a square of grey pixels.
        n_images : int, default=10
            Maximum number of images: the first rows of X.
        n_columns : int, default=10
            Images in a strip.
        cmap : str or matplotlib Colormap, default="gray_r"
            Of grey pixels. The smallest and largest number of the originals are its ends.
        ax : matplotlib Axes, default=None
            Axes to draw on. If None, create a new figure.

        Returns
        -------
        ReconstructionDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it lacks ``reconstruct``, or ``image_shape`` is not a tuple of integers.
        ValueError
            If X does not have the columns of ``fit``, or ``image_shape`` has another number of
            pixels.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from skevae import GaussianBernoulliRBMPrior
        >>> from skevae.displays import ReconstructionDisplay
        >>> X = load_digits().data[:200]
        >>> rbm = GaussianBernoulliRBMPrior(8, max_iter=2, random_state=0).fit(X)
        >>> display = ReconstructionDisplay.from_estimator(rbm, X, n_images=6)
        >>> display.originals.shape
        (6, 64)
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        check_estimator(
            estimator,
            ["reconstruct"],
            cls.__name__,
            "Pass a fitted EnergyVAE or GaussianBernoulliRBMPrior.",
        )
        check_options(cls.__name__, {"n_images": [at_least(1)]}, n_images=n_images)
        if not hasattr(X, "iloc") and not hasattr(X, "shape"):
            X = check_array(X, dtype=None, ensure_all_finite=False, input_name="X")
        X = X[:n_images]
        # Checked before the reconstruction.
        _shape_of_images(image_shape, np.shape(X)[-1])
        display = cls(np.asarray(X), np.asarray(estimator.reconstruct(X)), image_shape=image_shape)
        return display.plot(ax, n_columns=n_columns, cmap=cmap)

    def plot(self, ax=None, *, n_columns=10, cmap="gray_r"):
        """Plot rows of originals, each above its reconstructions.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. If None, create a new figure.
        n_columns : int, default=10
            Images in a strip.
        cmap : str or matplotlib Colormap, default="gray_r"
            Of grey pixels. The smallest and largest number of the originals are its ends.

        Returns
        -------
        ReconstructionDisplay
            The display itself, with the artists as attributes.

        Raises
        ------
        TypeError
            If ``image_shape`` is not a tuple of integers.
        ValueError
            If the arrays have different shapes, or ``image_shape`` has another number of pixels.
        ImportError
            If matplotlib is not installed.
        """
        caller = f"{type(self).__name__}.plot"
        import_pyplot(caller)
        check_options(caller, {"n_columns": [at_least(1)]}, n_columns=n_columns)
        originals, reconstructions = self._checked()
        low, high = np.nanmin(originals), np.nanmax(originals)
        if originals.ndim == 4:
            # Colours are shown without scaling, so they must be in [0, 1].
            reach = high - low if high > low else 1.0
            originals, reconstructions = (
                np.clip((images - low) / reach, 0, 1) for images in (originals, reconstructions)
            )
        n_columns = min(n_columns, len(originals))
        mosaic, centres = _strips(originals, reconstructions, n_columns)
        width = 0.75 * n_columns + 1.1
        size = (width, 0.75 * n_columns * mosaic.shape[0] / mosaic.shape[1] + 0.2)
        self.ax_ = make_panels(ax, 1, 1, size=size, caller=caller)[0, 0]
        self.figure_ = self.ax_.figure
        self.image_ = self.ax_.imshow(mosaic, cmap=cmap, vmin=low, vmax=high)
        labels = ["original", "reconstruction"] * (len(centres) // 2)
        self.ax_.set(xticks=[], yticks=centres, yticklabels=labels)
        self.ax_.tick_params(length=0)
        for index, label in enumerate(self.ax_.get_yticklabels()):
            label.set_color((BLUE, VERMILION)[index % 2])
        self.ax_.spines[:].set_visible(False)
        return self

    def _checked(self) -> tuple[np.ndarray, np.ndarray]:
        originals = np.asarray(self.originals, dtype=float)
        reconstructions = np.asarray(self.reconstructions, dtype=float)
        if originals.ndim != 2 or not len(originals) or originals.shape != reconstructions.shape:
            raise ValueError(
                f"originals of shape {originals.shape} and reconstructions of shape "
                f"{reconstructions.shape} must be 2-D arrays of the same shape, one per row."
            )
        shape = _shape_of_images(self.image_shape, originals.shape[1])
        return originals.reshape(-1, *shape), reconstructions.reshape(-1, *shape)


def _shape_of_images(image_shape: Any, n_pixels: int) -> tuple[int, ...]:
    """Check the shape of an image, or guess a square."""
    if image_shape is None:
        side = math.isqrt(n_pixels)
        if side**2 != n_pixels:
            raise ValueError(
                f"image_shape=None stands for a square image, but rows of {n_pixels} numbers are "
                "no squares. Pass image_shape=(height, width)."
            )
        return side, side
    wanted = "must be (height, width) or (height, width, 3)"
    sizes = np.asarray(image_shape)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu":
        raise TypeError(f"image_shape={image_shape!r} {wanted}, of integers.")
    if len(sizes) not in (2, 3) or (sizes < 1).any() or (len(sizes) == 3 and sizes[2] != 3):
        raise ValueError(f"image_shape={image_shape!r} {wanted}, of integers of at least 1.")
    if sizes.prod() != n_pixels:
        raise ValueError(
            f"image_shape={image_shape!r} has {sizes.prod()} numbers, but the rows have "
            f"{n_pixels}. Its product must be the number of columns of X."
        )
    return tuple(sizes.tolist())


def _strips(
    originals: np.ndarray, reconstructions: np.ndarray, n_columns: int
) -> tuple[np.ndarray, list[float]]:
    """Arrange images in one; return it and the vertical centre of each strip."""
    n_images, height, width = originals.shape[:3]
    gap = max(1, round(GAP * width))
    n_groups = math.ceil(n_images / n_columns)
    # Each group consists of two strips and a gap; nan is drawn blank.
    group = 2 * height + 3 * gap
    shape = (n_groups * group - 2 * gap, n_columns * (width + gap) - gap, *originals.shape[3:])
    # Colours have no blank value, so the gap is white.
    mosaic = np.full(shape, np.nan if originals.ndim == 3 else 1.0)
    centres = []
    for start in range(n_groups):
        for offset, images in ((0, originals), (height + gap, reconstructions)):
            top = start * group + offset
            centres.append(top + (height - 1) / 2)
            part = images[start * n_columns : (start + 1) * n_columns]
            for column, image in enumerate(part):
                left = column * (width + gap)
                mosaic[top : top + height, left : left + width] = image
    return mosaic, centres
