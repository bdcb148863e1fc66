"""Data with known answers: toy densities in the plane, and binarised MNIST.

A toy density comes with its exact normalised log-density and its entropy. No model can score above
minus the entropy in expectation, so the gap between the two says how good a model is, and a score
beyond it says that the score is not a likelihood.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from numbers import Integral
from os import PathLike
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erfcx, expit, logsumexp
from sklearn.datasets import fetch_openml
from sklearn.utils import Bunch, check_array, check_random_state, check_scalar, gen_batches

RandomState = int | np.random.RandomState | None

__all__ = ["TOY_DENSITIES", "ToyDensity", "fetch_binarized_mnist", "toy_density"]


def _check_random_state(random_state: RandomState) -> np.random.RandomState:
    """Return scikit-learn's generator, except that None never means the global one."""
    if random_state is None:
        return np.random.RandomState(np.random.MT19937(np.random.SeedSequence()))
    return check_random_state(random_state)


def _check_choice(parameter: str, value, choices) -> None:
    """Raise a ValueError that names the parameter, its value and what it may be."""
    if not isinstance(value, str) or value not in choices:
        valid = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{parameter} must be one of {valid}; got {value!r}.")


class ToyDensity(ABC):
    """A probability density in the plane that can be sampled and evaluated exactly.

    Subclasses set `name` and `entropy` and implement `_sample` and `_log_density`.

    Attributes
    ----------
    name : str
        The key of the density in `TOY_DENSITIES`.
    n_features : int
        The number of columns of a sample, 2.
    entropy : float
        Differential entropy in nats: minus the expected log-density.
    """

    name: ClassVar[str]
    entropy: ClassVar[float]
    n_features: ClassVar[int] = 2

    def __repr__(self) -> str:
        """Return the call that makes this object."""
        return f"toy_density({self.name!r})"

    def sample(self, n_samples: int = 1, random_state: RandomState = None) -> np.ndarray:
        """Draw independent rows.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows, at least 1.
        random_state : int, RandomState instance or None, default=None
            An int makes the draws reproducible. None takes fresh entropy from the operating
            system; NumPy's global generator is neither read nor advanced.

        Returns
        -------
        X : ndarray of shape (n_samples, 2), float64
            The draws.

        Raises
        ------
        TypeError
            If `n_samples` is not an integer.
        ValueError
            If `n_samples` is below 1.
        """
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        return self._sample(int(n_samples), _check_random_state(random_state))

    def log_density(self, X: ArrayLike) -> np.ndarray:
        """Evaluate the normalised log-density.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)
            Finite points of the plane.

        Returns
        -------
        log_density : ndarray of shape (n_samples,), float64
            In nats; -inf outside the support.

        Raises
        ------
        ValueError
            If `X` is not a finite, numeric two-dimensional array with 2 columns.
        """
        return self._log_density(self._check_points(X))

    def _check_points(self, X: ArrayLike) -> np.ndarray:
        points = check_array(X, dtype=np.float64, input_name="X")
        if points.shape[1] != self.n_features:
            raise ValueError(
                f"X has {points.shape[1]} features, but {self!r} is expecting {self.n_features} "
                "features as input."
            )
        return points

    @abstractmethod
    def _sample(self, n_samples: int, rng: np.random.RandomState) -> np.ndarray: ...

    @abstractmethod
    def _log_density(self, X: np.ndarray) -> np.ndarray: ...


class EightGaussians(ToyDensity):
    """Eight equal Gaussians on a circle, as drawn for FFJORD [1]_.

    x = (4 (cos, sin)(k pi / 4) + 0.5 e) / 1.414 with k uniform on 0..7 and e ~ N(0, I).

    References
    ----------
    .. [1] Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), "FFJORD: Free-form
       continuous dynamics for scalable reversible generative models", ICLR.
    """

    name = "8gaussians"
    entropy = 2.83188040614

    _angles = np.arange(8) * np.pi / 4
    _centers = 4 * np.column_stack([np.cos(_angles), np.sin(_angles)]) / 1.414
    _scale = 0.5 / 1.414

    def _sample(self, n_samples, rng):
        noise = self._scale * rng.standard_normal((n_samples, 2))
        return self._centers[rng.randint(8, size=n_samples)] + noise

    def _log_density(self, X):
        squares = np.sum(((X[:, None] - self._centers) / self._scale) ** 2, axis=2)
        return logsumexp(-0.5 * squares, axis=1) - np.log(8 * 2 * np.pi * self._scale**2)


class Checkerboard(ToyDensity):
    """Uniform on the eight dark 2 x 2 squares of the board [-4, 4)^2, as drawn for FFJORD [1]_.

    x / 2 = (t, u' - 2 b + (floor(t) mod 2)) with t = 4 u - 2, u and u' uniform on [0, 1) and b a
    fair coin. The dark squares are those where floor(x1 / 2) + floor(x2 / 2) is even; their area
    is 32, so the density there is 1 / 32.

    References
    ----------
    .. [1] Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), "FFJORD: Free-form
       continuous dynamics for scalable reversible generative models", ICLR.
    """

    name = "checkerboard"
    entropy = float(np.log(32))

    def _sample(self, n_samples, rng):
        x1 = 4 * rng.random_sample(n_samples) - 2
        x2 = rng.random_sample(n_samples) - 2 * rng.randint(2, size=n_samples) + np.floor(x1) % 2
        return 2 * np.column_stack([x1, x2])

    def _log_density(self, X):
        on_board = np.all((X >= -4) & (X < 4), axis=1)
        is_dark = np.floor(X / 2).sum(axis=1) % 2 == 0
        return np.where(on_board & is_dark, -self.entropy, -np.inf)


class TwoSpirals(ToyDensity):
    r"""Two interleaved noisy spirals, as drawn for FFJORD [1]_ but with independent rows.

    x = s (-n cos n + u' / 2, n sin n + u'' / 2) / 3 + 0.1 e, with a fair sign s, n = 3 pi sqrt(u),
    u, u' and u'' uniform on [0, 1) and e ~ N(0, I). (The usual generator returns every draw of one
    arm mirrored in the other; here each row has its own sign and its own draws.)

    Given s and n the two coordinates are independent, each uniform on an interval of width 1/6
    plus Gaussian noise, with the closed-form density

        k(t) = 6 (Phi((|t| + 1/12) / 0.1) - Phi((|t| - 1/12) / 0.1))

    about the interval's centre s c(n), c(n) = (-n cos n + 1/4, n sin n + 1/4) / 3. There remains

        p(x) = 1/2 sum_s int_0^{3 pi} (2 n / (3 pi)^2) k(s x1 - c1(n)) k(s x2 - c2(n)) dn,

    a smooth integral, done by Gauss-Legendre quadrature with 512 nodes. Its error in ln p is below
    1e-8 on [-5, 5]^2 and stays below 1e-5 of ln p far outside.

    References
    ----------
    .. [1] Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), "FFJORD: Free-form
       continuous dynamics for scalable reversible generative models", ICLR.
    """

    name = "2spirals"
    entropy = 2.64545028

    _length = 3 * np.pi
    _noise = 0.1

    def _sample(self, n_samples, rng):
        n = self._length * np.sqrt(rng.random_sample((n_samples, 1)))
        arm = n * np.hstack([-np.cos(n), np.sin(n)]) + rng.random_sample((n_samples, 2)) / 2
        sign = 2 * rng.randint(2, size=(n_samples, 1)) - 1
        return sign * arm / 3 + self._noise * rng.standard_normal((n_samples, 2))

    def _log_density(self, X):
        centers, weights = self._quadrature()
        # Small batches keep the (rows, nodes) tables in the processor's cache.
        batches = gen_batches(len(X), 64)
        return np.concatenate([self._log_mixture(X[batch], centers, weights) for batch in batches])

    @classmethod
    @cache
    def _quadrature(cls) -> tuple[np.ndarray, np.ndarray]:
        """Return interval centres (1024, 2) of both arms and their probabilities (1024,)."""
        nodes, weights = np.polynomial.legendre.leggauss(512)
        n = cls._length * (nodes + 1) / 2
        centers = np.column_stack([-n * np.cos(n) + 0.25, n * np.sin(n) + 0.25]) / 3
        # dn = (3 pi / 2) dnode, times the density 2 n / (3 pi)^2, times 1/2 for the sign.
        weights = weights * n / (2 * cls._length)
        return np.concatenate([centers, -centers]), np.tile(weights, 2)

    @classmethod
    def _log_mixture(cls, X, centers, weights):
        # Since erfc(y) = exp(-y^2) erfcx(y), with z = |t| / 0.1 and h the half width in that unit,
        #   k(t) = 3 exp(-(z - h)^2 / 2)
        #          (erfcx((z - h) / sqrt2) - exp(-2 h z) erfcx((z + h) / sqrt2)),
        # where only the first exponential can underflow; its logarithm is kept instead.
        half = 1 / 12 / cls._noise
        exponent, factor = 0.0, 9 * weights
        for column in range(2):
            z = np.abs(X[:, column, None] - centers[:, column]) / cls._noise
            exponent = exponent - 0.5 * (z - half) ** 2
            factor = factor * (
                erfcx((z - half) / np.sqrt(2))
                - np.exp(-2 * half * z) * erfcx((z + half) / np.sqrt(2))
            )
        return logsumexp(exponent, b=factor, axis=1)


class Potential(ToyDensity):
    """A density exp(-U(z)) / Z on the box [-4, 4]^2, with a potential of [1]_.

    Most of the potentials are not integrable on the whole plane, hence the box, on which the
    density is normalised and outside of which it is 0. `entropy` and `log_partition` were found by
    Gauss-Legendre quadrature and are right to all digits given. Draws are exact: proposals have a
    closed-form law proportional to exp(-U) up to a factor in [0, 1], and are kept with the
    probability that this factor gives.

    Subclasses implement `_energy` and `_propose`.

    Attributes
    ----------
    log_partition : float
        ln Z = ln of the integral of exp(-U) over the box, in nats.

    References
    ----------
    .. [1] Rezende and Mohamed (2015), "Variational inference with normalizing flows", ICML,
       table 1.
    """

    log_partition: ClassVar[float]
    _half_width: ClassVar[float] = 4.0

    def energy(self, X: ArrayLike) -> np.ndarray:
        """Evaluate the potential U, on the box and off it.

        Parameters
        ----------
        X : array-like of shape (n_samples, 2)
            Finite points of the plane.

        Returns
        -------
        energy : ndarray of shape (n_samples,), float64
            U in nats; on the box `log_density` is `-energy - log_partition`.

        Raises
        ------
        ValueError
            If `X` is not a finite, numeric two-dimensional array with 2 columns.
        """
        return self._energy(self._check_points(X))

    def _log_density(self, X):
        return np.where(self._in_box(X), -self._energy(X) - self.log_partition, -np.inf)

    def _sample(self, n_samples, rng):
        kept, n_missing = [], n_samples
        while n_missing > 0:
            proposals = self._propose(2 * n_missing, rng)
            kept.append(proposals[self._in_box(proposals)][:n_missing])
            n_missing -= len(kept[-1])
        return np.concatenate(kept)

    def _in_box(self, X):
        return np.all(np.abs(X) <= self._half_width, axis=1)

    def _uniform(self, n, rng):
        return rng.uniform(-self._half_width, self._half_width, n)

    @abstractmethod
    def _energy(self, X: np.ndarray) -> np.ndarray: ...

    @abstractmethod
    def _propose(self, n: int, rng: np.random.RandomState) -> np.ndarray:
        """Return at most n independent draws of exp(-U) from a set that contains the box."""


class Potential1(Potential):
    """A ring with two modes, U1 of Rezende and Mohamed (2015).

    U1 = ((|z| - 2) / 0.4)^2 / 2
         - ln(exp(-((z1 - 2) / 0.6)^2 / 2) + exp(-((z1 + 2) / 0.6)^2 / 2)).
    """

    name = "potential1"
    log_partition = 1.8775016168
    entropy = 2.6600123757

    def _ring(self, X):
        return 0.5 * ((np.hypot(X[:, 0], X[:, 1]) - 2) / 0.4) ** 2

    def _energy(self, X):
        sides = -0.5 * ((X[:, :1] - [-2, 2]) / 0.6) ** 2
        return self._ring(X) - logsumexp(sides, axis=1)

    def _propose(self, n, rng):
        # The second term is a mixture of two Gaussians in z1; the first is a factor in [0, 1].
        z1 = 2 * (2 * rng.randint(2, size=n) - 1) + 0.6 * rng.standard_normal(n)
        Z = np.column_stack([z1, self._uniform(n, rng)])
        return Z[rng.random_sample(n) < np.exp(-self._ring(Z))]


class _Ridges(Potential):
    """Gaussian ridges along curves, U = -ln sum_k exp(-((z2 - c_k(z1)) / s_k)^2 / 2)."""

    _scales: ClassVar[np.ndarray]

    @staticmethod
    @abstractmethod
    def _curves(z1: np.ndarray) -> np.ndarray:
        """Return the heights c_k(z1) of the ridges, shape (n, n_ridges)."""

    def _energy(self, X):
        z = (X[:, 1:] - self._curves(X[:, 0])) / self._scales
        return -logsumexp(-0.5 * z**2, axis=1)

    def _propose(self, n, rng):
        # On the whole line exp(-U) integrates over z2 to the same number at every z1, to which
        # each ridge contributes in proportion to its scale: z1 is uniform, z2 a Gaussian mixture.
        z1 = self._uniform(n, rng)
        ridge = rng.choice(len(self._scales), size=n, p=self._scales / self._scales.sum())
        z2 = self._curves(z1)[np.arange(n), ridge] + self._scales[ridge] * rng.standard_normal(n)
        return np.column_stack([z1, z2])


def _w1(z1):
    return np.sin(2 * np.pi * z1 / 4)


def _w2(z1):
    return 3 * np.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)


def _w3(z1):
    return 3 * expit((z1 - 1) / 0.3)


class Potential2(_Ridges):
    """A sine wave, U2 of Rezende and Mohamed (2015).

    U2 = ((z2 - w1) / 0.4)^2 / 2 with w1 = sin(2 pi z1 / 4).
    """

    name = "potential2"
    log_partition = 2.0820893430
    entropy = 2.5820893430
    _scales = np.array([0.4])

    @staticmethod
    def _curves(z1):
        return _w1(z1)[:, None]


class Potential3(_Ridges):
    """A sine wave and a second one that dips, U3 of Rezende and Mohamed (2015).

    U3 = -ln(exp(-((z2 - w1) / 0.35)^2 / 2) + exp(-((z2 - w1 + w2) / 0.35)^2 / 2)) with
    w1 = sin(2 pi z1 / 4) and w2 = 3 exp(-((z1 - 1) / 0.6)^2 / 2).
    """

    name = "potential3"
    log_partition = 2.6417051309
    entropy = 2.6267065695
    _scales = np.array([0.35, 0.35])

    @staticmethod
    def _curves(z1):
        return np.column_stack([_w1(z1), _w1(z1) - _w2(z1)])


class Potential4(_Ridges):
    """A sine wave that forks, U4 of Rezende and Mohamed (2015).

    U4 = -ln(exp(-((z2 - w1) / 0.4)^2 / 2) + exp(-((z2 - w1 + w3) / 0.35)^2 / 2)) with
    w1 = sin(2 pi z1 / 4) and w3 = 3 sigmoid((z1 - 1) / 0.3).
    """

    name = "potential4"
    log_partition = 2.6845676702
    entropy = 2.7661810783
    _scales = np.array([0.4, 0.35])

    @staticmethod
    def _curves(z1):
        return np.column_stack([_w1(z1), _w1(z1) - _w3(z1)])


TOY_DENSITIES: dict[str, type[ToyDensity]] = {
    density.name: density
    for density in (
        EightGaussians,
        Checkerboard,
        TwoSpirals,
        Potential1,
        Potential2,
        Potential3,
        Potential4,
    )
}


def toy_density(name: str) -> ToyDensity:
    """Return a density in the plane whose samples, log-density and entropy are exact.

    Parameters
    ----------
    name : {"8gaussians", "checkerboard", "2spirals", "potential1", "potential2", "potential3", \
            "potential4"}
        The first three are the sets drawn for FFJORD [1]_, the others the potentials of [2]_
        normalised on the box [-4, 4]^2.

    Returns
    -------
    density : ToyDensity
        Has `sample(n_samples=1, random_state=None)`, an array of shape (n_samples, 2);
        `log_density(X)`, shape (n_samples,), normalised, in nats; `entropy`, in nats; `name` and
        `n_features`. The potentials also have `energy(X)` and `log_partition`.

    Raises
    ------
    ValueError
        If `name` is not one of those above.

    References
    ----------
    .. [1] Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), "FFJORD: Free-form
       continuous dynamics for scalable reversible generative models", ICLR.
    .. [2] Rezende and Mohamed (2015), "Variational inference with normalizing flows", ICML.

    Examples
    --------
    >>> from sklearn.mixture import GaussianMixture
    >>> from skevae.datasets import toy_density
    >>> density = toy_density("8gaussians")
    >>> X_train = density.sample(2000, random_state=0)
    >>> X_test = density.sample(2000, random_state=1)
    >>> model = GaussianMixture(8, random_state=0).fit(X_train)
    >>> gap = density.log_density(X_test).mean() - model.score(X_test)
    >>> print(f"entropy {density.entropy:.3f}, gap {gap:.2f} nats")
    entropy 2.832, gap 0.01 nats
    """
    _check_choice("name", name, TOY_DENSITIES)
    return TOY_DENSITIES[name]()


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
    """Load MNIST as binary images, or as the probabilities that images are drawn from.

    Two conventions are in use, and their likelihoods must not be compared. In the static one every
    pixel was drawn once, with its intensity as the probability of a 1; the published split of this
    kind is that of Larochelle and Murray [1]_. In the dynamic one [2]_ the intensities are the data
    and each visit draws its own binary image.

    Parameters
    ----------
    subset : {"train", "valid", "train+valid", "test"}, default="train"
        The first 50,000 training images, the last 10,000 training images, both, or the 10,000 test
        images: the split of [1]_, whatever the source.
    binarization : {"dynamic", "static"}, default="dynamic"
        - "dynamic": intensities / 255, in [0, 1]. A Bernoulli likelihood that takes values between
          0 and 1 as probabilities draws them afresh at each visit.
        - "static": 0 or 1. From intensities, one draw that `random_state` fixes, for instance for a
          test set that is the same for all models. It is not the draw of [1]_, which exists only
          as a file: give that file as `local_npz`.
    data_home : str, path-like or None, default=None
        Download and cache folder, passed to :func:`sklearn.datasets.fetch_openml`.
    local_npz : str, path-like or None, default=None
        Read this file and nothing from the network. Either a static split, with arrays "train",
        "valid" and "test" of values in {0, 1}, or raw MNIST, with arrays "train" and "test" of
        integers in 0..255 and, optionally, "valid" and labels "train_y", "valid_y" and "test_y".
        Images may have the shape (n, 784) or (n, 28, 28).
    random_state : int, RandomState instance or None, default=None
        Fixes the draw of binarization="static" from intensities; the draw of a subset does not
        depend on which other subsets are loaded. None draws afresh at each call and leaves NumPy's
        global generator alone. Unused otherwise.
    return_X_y : bool, default=False
        Return `(data, target)` in place of the Bunch.

    Returns
    -------
    mnist : :class:`~sklearn.utils.Bunch`
        With `data`, an ndarray of shape (n_samples, 784), float32, in [0, 1]; `target`, the digits,
        an ndarray of shape (n_samples,), or None where the file has no labels; and `DESCR`, a line
        that says which subset and binarisation this is.

    Raises
    ------
    ValueError
        If `subset` or `binarization` is not one of the values above, if the file lacks an array or
        holds something else than described, or if binarization="dynamic" is asked of a static
        split, which has no intensities.
    FileNotFoundError
        If there is no file `local_npz`.
    ImportError
        If pandas, which scikit-learn parses the download with, is not installed.

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
    _check_choice("subset", subset, _MNIST_SUBSETS)
    _check_choice("binarization", binarization, ("dynamic", "static"))
    mnist = _load_mnist(data_home) if local_npz is None else _load_mnist_npz(local_npz)
    if "valid" not in mnist:
        images, labels = mnist["train"]
        train, valid = slice(5 * len(images) // 6), slice(5 * len(images) // 6, None)
        for part, rows in (("train", train), ("valid", valid)):
            mnist[part] = images[rows], None if labels is None else labels[rows]

    # One seed a part, so that the test set does not depend on whether others were drawn before it.
    seeds = _check_random_state(random_state).randint(np.iinfo(np.int32).max, size=3)
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
    mnist = fetch_openml("mnist_784", version=1, as_frame=False, data_home=data_home)
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
    """Turn images of intensities, or of a static split, into rows in [0, 1]."""
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
