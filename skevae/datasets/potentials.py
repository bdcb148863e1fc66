"""The four potentials of Rezende & Mohamed (2015), normalised."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logsumexp

from skevae.datasets.toy import ToyDensity


class Potential(ToyDensity):
    """A density exp(-U(z)) / Z on the box [-4, 4]^2, with a potential of [1]_.

    For most of the potentials, exp(-U) is not integrable on the whole plane. The density is
    therefore restricted to the box and normalised on it; it is 0 outside. `entropy` and
    `log_partition` were computed by Gauss-Legendre quadrature, and all given digits are correct.
    Draws are exact, by rejection sampling: the density of the proposals times a factor in [0, 1] is
    proportional to exp(-U), and proposals are accepted with this factor as the probability.

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
        """Evaluate the potential U, inside and outside of the box.

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
        """Return at most n independent draws of exp(-U) on a set that contains the box."""


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
        # The integral of exp(-U) over z2 is the same at every z1, and each ridge contributes in
        # proportion to its scale: z1 is uniform, and z2 given z1 is a Gaussian mixture.
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
    """A sine wave and a second one with a dip, U3 of Rezende and Mohamed (2015).

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
