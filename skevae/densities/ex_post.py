"""Ex-post density estimation: a scikit-learn density estimator as the latent distribution.

After training, the aggregated posterior (the mean of q(z | x) over the rows) usually differs from
the prior. Replacing the prior by a density estimator that is fitted to draws from the aggregated
posterior gives a better model with the same decoder (Dai & Wipf 2019; Ghosh et al. 2020), and ln Z
= 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import Tensor

from skevae.densities.base import Density
from skevae.utils.constraints import InstanceWith
from skevae.utils.sampling import seeded_sample

# Number of points passed to an estimator at once: large enough for a small overhead per call, and
# small enough for a small table of points by mixture components.
POINTS_AT_ONCE = 2**14

# Number of draws on which the scores and samples of a fitted estimator are tested.
N_TRIALS = 100

# `KernelDensity` can score all of its kernels, but only sample these.
SAMPLED_KERNELS = ("gaussian", "tophat")

# Estimators that score exactly the density that they sample. Others may score a lower bound of it,
# which cannot be detected from their results. Subclasses are not included.
SCORES_EXACTLY: dict[type, Callable[[Any], bool]] = {
    GaussianMixture: lambda estimator: True,
    KernelDensity: lambda estimator: estimator.atol == estimator.rtol == 0,
}

# Latents are NumPy arrays for any type of X, so estimators need not support other arrays.
numpy_dispatch = partial(config_context, array_api_dispatch=False)


class DensityEstimatorInstance(InstanceWith):
    """Constraint: an instance, not a class, with ``fit``, ``score_samples`` and ``sample``."""

    def __init__(self) -> None:
        super().__init__("a density estimator", ["fit", "score_samples", "sample"])

    def __str__(self) -> str:
        return f"{super().__str__()} (of a search, its best_estimator_)"


def check_can_sample(estimator: Any) -> None:
    """Raise if the estimator cannot be sampled, before training instead of after it.

    Parameters
    ----------
    estimator : estimator

    Raises
    ------
    ValueError
        If it is a `KernelDensity` with a kernel that cannot be sampled.
    """
    if isinstance(estimator, KernelDensity) and estimator.kernel not in SAMPLED_KERNELS:
        raise ValueError(
            f"ex_post={estimator!r} cannot be sampled: KernelDensity only samples "
            f"kernel='gaussian' and kernel='tophat', not {estimator.kernel!r}. Use one of these."
        )


class EstimatorDensity(Density):
    """Density of a fitted estimator as a latent density without parameters.

    The energy is minus the estimator's log-density, so that ln Z = 0. It is always evaluated by
    NumPy in float64 on the CPU, and has no gradient.

    In expectation, the estimator must score the density that it samples **or a lower value**. Then
    the importance-sampled likelihood is still a lower bound in expectation: the weights p(x|z) p(z)
    / ((1 - s) q(z|x) + s p(z)) are increasing and concave in p(z), so neither a p(z) that is too
    low nor a noisy, unbiased p(z) makes them too high in expectation. Examples are a nested VAE,
    whose importance estimate is independent of the draws, an RBM that subtracts the upper end of
    its interval of ln Z, and `BayesianGaussianMixture`, which scores the expected logarithm of each
    component.

    Parameters
    ----------
    estimator : fitted estimator
        An estimator with ``score_samples`` and ``sample``. It is not changed.
    n_latent : int
        Dimension D of z.
    """

    def __init__(self, estimator: Any, n_latent: int) -> None:
        super().__init__()
        self.estimator = estimator
        self.n_latent = n_latent
        # Samples are assumed to follow the scored density, unless an estimator of this package
        # samples by Markov chains.
        self.samples_exactly = getattr(estimator, "_samples_exactly", True)
        known = SCORES_EXACTLY.get(type(estimator), lambda e: getattr(e, "_scores_exactly", False))
        self.scores_exactly = known(estimator)

    @torch.no_grad()
    def energy(self, z: Tensor) -> Tensor:
        points = z.detach().reshape(-1, self.n_latent).cpu().numpy().astype(np.float64)
        # Extreme outliers can have infinite latents, for which scikit-learn raises an error.
        finite = np.isfinite(points).all(axis=1)
        log_density = np.full(len(points), -np.inf)
        log_density[finite] = self._score_samples(points[finite])
        return torch.as_tensor(-log_density, dtype=z.dtype, device=z.device).reshape(z.shape[:-1])

    def _score_samples(self, points: np.ndarray) -> np.ndarray:
        """Log-densities in chunks; may be -inf, but not nan: (n, D) -> (n,)."""
        log_density = np.empty(len(points))
        for start in range(0, len(points), POINTS_AT_ONCE):
            part = slice(start, start + POINTS_AT_ONCE)
            # Squares of the latents of outliers overflow, which correctly gives a density of 0.
            with np.errstate(over="ignore"), numpy_dispatch():
                log_density[part] = self.estimator.score_samples(points[part])
        wrong = np.isnan(log_density) | np.isposinf(log_density)
        if wrong.any():
            raise ValueError(
                f"ex_post: score_samples of {self.estimator!r} returned "
                f"{log_density[wrong][0]} as the log-density of a latent. Regularise it, or use "
                "another estimator."
            )
        return log_density

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw rows in random order: (n, D), float64, on the device of the generator."""
        high = 2**31 - 1
        draw = torch.randint(high, (), generator=generator, device=generator.device)
        seed = int(draw.item())
        with numpy_dispatch():
            drawn = seeded_sample(self.estimator, n_samples, seed)
        rows = np.asarray(drawn, dtype=np.float64)
        if rows.shape != (n_samples, self.n_latent):
            raise ValueError(
                f"ex_post: sample({n_samples}) of {self.estimator!r} returned an array of shape "
                f"{rows.shape}, not {(n_samples, self.n_latent)}."
            )
        rows = rows[np.random.default_rng(seed).permutation(n_samples)]
        return torch.as_tensor(rows, device=generator.device)


def fit_density(estimator: Any, draws: Tensor, generator: torch.Generator) -> Any:
    """Fit an estimator to draws of the aggregated posterior, and test its scores and samples.

    Parameters
    ----------
    estimator : unfitted estimator
        Fitted in place.
    draws : Tensor of shape (n, D)
    generator : torch.Generator
        Generator for the test.

    Returns
    -------
    estimator
        The same, fitted.

    Raises
    ------
    ValueError
        If it cannot be fitted to this number of draws, scored or sampled.
    """
    Z = draws.cpu().numpy().astype(np.float64)
    try:
        with numpy_dispatch():
            estimator.fit(Z)
        density = EstimatorDensity(estimator, Z.shape[1])
        density.energy(draws[:N_TRIALS])
        density.sample(N_TRIALS, generator)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"ex_post={estimator!r} cannot replace the prior after a fit to {len(Z)} draws "
            f"of the aggregated posterior ({error or type(error).__name__}). Use more rows, or "
            "another estimator."
        ) from error
    return estimator
