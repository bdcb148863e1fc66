"""Binarised MNIST."""

from __future__ import annotations

from os import PathLike
from urllib.error import URLError

import numpy as np
from sklearn.datasets import fetch_openml
from sklearn.utils import Bunch, gen_batches

from skevae.datasets.checks import RandomState, as_generator, check_choice

_MNIST_SUBSETS = {
    "train": ("train",),
    "valid": ("valid",),
    "train+valid": ("train", "valid"),
    "test": ("test",),
}


def fetch_binarized_mnist(
    *,
    subset: str = "train",
    binarization: str = "dynamic",
    data_home: str | PathLike | None = None,
    local_npz: str | PathLike | None = None,
    random_state: RandomState = None,
    return_X_y: bool = False,
) -> Bunch | tuple[np.ndarray, np.ndarray | None]:
    """Load MNIST as binary images, or as pixel probabilities from which they are drawn.

    There are two conventions, and their likelihoods must not be compared. With static binarisation,
    every pixel is drawn once, with its intensity as the probability of a 1; the published data set
    is that of Larochelle and Murray [1]_. With dynamic binarisation [2]_, the data are the
    intensities, and a new binary image is drawn in each training step.

    Parameters
    ----------
    subset : {"train", "valid", "train+valid", "test"}, default="train"
        The first 50,000 training images, the last 10,000 training images, both, or the 10,000 test
        images. This is the split of [1]_ for every source of the data.
    binarization : {"dynamic", "static"}, default="dynamic"
        - "dynamic": intensities / 255, in [0, 1]. The Bernoulli likelihood of `EnergyVAE` draws
          new binary images from them in each training step.
        - "static": 0 or 1. Intensities are binarised once, as determined by `random_state`, for
          example for a test set that is the same for all models. This differs from the data set
          of [1]_, which only exists as a file: pass that file as `local_npz`.
    data_home : str, path-like or None, default=None
        Download and cache folder, passed to :func:`sklearn.datasets.fetch_openml`.
    local_npz : str, path-like or None, default=None
        Read this file instead of downloading. It holds either a static data set, with arrays
        "train", "valid" and "test" of values in {0, 1}, or raw MNIST, with arrays "train" and
        "test" of integers in 0..255 and, optionally, "valid" and labels "train_y", "valid_y" and
        "test_y". Images may have the shape (n, 784) or (n, 28, 28).
    random_state : int, RandomState instance or None, default=None
        Seed of the binarisation of intensities with binarization="static". The result for a subset
        does not depend on which other subsets are loaded. With None, each call gives another
        result; NumPy's global generator is not used. Not used otherwise.
    return_X_y : bool, default=False
        If True, return `(data, target)` instead of a Bunch.

    Returns
    -------
    mnist : :class:`~sklearn.utils.Bunch`
        Its attributes are `data`, an ndarray of shape (n_samples, 784), float32, in [0, 1];
        `target`, the digits, an ndarray of shape (n_samples,), or None if the file has no labels;
        and `DESCR`, a line that names the subset and the binarisation.

    Raises
    ------
    ValueError
        If `subset` or `binarization` is not one of the values above, if the file lacks an array or
        has other contents than described, or if binarization="dynamic" is used with a static data
        set, which has no intensities.
    FileNotFoundError
        If the file `local_npz` does not exist.
    ConnectionError
        If MNIST is not in the cache and cannot be downloaded.
    ImportError
        If pandas is not installed, which scikit-learn needs to parse the download.

    References
    ----------
    .. [1] Larochelle and Murray (2011), "The neural autoregressive distribution estimator",
       AISTATS.
    .. [2] Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", ICLR.

    Examples
    --------
    >>> from skevae.datasets import fetch_binarized_mnist
    >>> X, y = fetch_binarized_mnist(return_X_y=True)  # doctest: +SKIP
    >>> X.shape, float(X.max())  # doctest: +SKIP
    ((50000, 784), 1.0)
    """
    check_choice("subset", subset, _MNIST_SUBSETS)
    check_choice("binarization", binarization, ("dynamic", "static"))
    mnist = _load_mnist(data_home) if local_npz is None else _load_mnist_npz(local_npz)
    if "valid" not in mnist:
        images, labels = mnist["train"]
        train, valid = slice(5 * len(images) // 6), slice(5 * len(images) // 6, None)
        for part, rows in (("train", train), ("valid", valid)):
            mnist[part] = images[rows], None if labels is None else labels[rows]

    # One seed per subset, so that the test set does not depend on which subsets are loaded.
    seeds = as_generator(random_state).randint(np.iinfo(np.int32).max, size=3)
    seed = dict(zip(("train", "valid", "test"), seeds, strict=True))
    parts = _MNIST_SUBSETS[subset]
    data = np.concatenate([_binarize(mnist[part][0], binarization, seed[part]) for part in parts])
    labels = [mnist[part][1] for part in parts]
    target = None if any(label is None for label in labels) else np.concatenate(labels)
    if return_X_y:
        return data, target
    description = f"MNIST, subset {subset!r}, {binarization} binarization, {len(data)} images."
    return Bunch(data=data, target=target, DESCR=description)


def _load_mnist(data_home) -> dict[str, tuple]:
    try:
        mnist = fetch_openml("mnist_784", version=1, as_frame=False, data_home=data_home)
    except URLError as error:
        raise ConnectionError(
            f"MNIST cannot be downloaded from openml.org ({error.reason}). Connect to the "
            "internet, or pass a file as local_npz."
        ) from error
    images, labels = mnist.data, mnist.target.astype(np.int64)
    # OpenML keeps the original order of the 70,000 images; the test images are the last seventh.
    train, test = slice(6 * len(images) // 7), slice(6 * len(images) // 7, None)
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}


def _load_mnist_npz(path) -> dict[str, tuple]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    for part in ("train", "test"):
        if part not in arrays:
            raise ValueError(
                f"local_npz={str(path)!r} has no array {part!r}; it has {sorted(arrays)}."
            )
    parts = [part for part in ("train", "valid", "test") if part in arrays]
    return {part: (arrays[part], arrays.get(f"{part}_y")) for part in parts}


def _binarize(images: np.ndarray, binarization: str, seed: int) -> np.ndarray:
    """Turn images with intensities, or of a static data set, into rows in [0, 1]."""
    images = images.reshape(len(images), -1)
    if images.shape[1] != 784:
        raise ValueError(f"MNIST images have 784 pixels; got {images.shape[1]}.")
    highest = images.max()
    if images.min() < 0 or highest > 255 or np.any(images != np.floor(images)):
        raise ValueError(
            "MNIST images must hold integers in 0..255, or 0 and 1 for a static split."
        )
    if highest <= 1:
        if binarization == "dynamic":
            raise ValueError(
                "binarization='dynamic' needs intensities in 0..255, but these images hold only "
                "0 and 1, a static split; use binarization='static'."
            )
        return images.astype(np.float32)
    data = images.astype(np.float32) / 255
    if binarization == "static":
        rng = np.random.RandomState(seed)
        for rows in gen_batches(len(data), 1000):
            data[rows] = rng.random_sample(data[rows].shape) < data[rows]
    return data
