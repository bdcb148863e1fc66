"""Paths between rows in latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import Bunch, check_array
from sklearn.utils._param_validation import (
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted

from skevae.estimators.frames import as_frame, as_row
from skevae.estimators.standardizer import as_tensor
from skevae.fitted.latents import Latents
from skevae.interpolation import raise_low_points, straight_path
from skevae.utils.arrays import from_torch
from skevae.utils.constraints import at_least
from skevae.utils.device import copy_to, own_context
from skevae.utils.random import make_generator


class Paths(Latents):
    """Methods that interpolate between rows."""

    def interpolate(self, x0, x1, n_steps=10, n_correction_steps=0, random_state=None):
        """Interpolate between two rows in latent space, optionally avoiding low-density regions.

        The path is the straight line between the two posterior means. With ``n_correction_steps``,
        points with a lower prior density than both ends are moved to higher density by the sampler
        of the prior. Each step moves a point to the mean of 64 transitions from it (for the Gibbs
        sampler of an RBM, this is mean shift) if this increases the prior density, until the
        density is at least that of the less probable end. Corrections use the prior even if there
        is an ``ex_post_``, which has no Markov chain.

        Parameters
        ----------
        x0, x1 : array-like of shape (n_features,) or (1, n_features)
            The first and the last row of the path.
        n_steps : int, default=10
            Number of points of the path, including both ends; at least 2.
        n_correction_steps : int, default=0
            Maximum number of correction steps for each point. The ends are not moved.
        random_state : int, RandomState instance or None, default=None
            Seed of the corrections. None uses the ``random_state`` of the estimator.

        Returns
        -------
        Bunch
            In float32 if both rows are, else in float64.

            latent : ndarray of shape (n_steps, n_components)
                The points of the path.
            rows : ndarray or DataFrame of shape (n_steps, n_features)
                ``inverse_transform(latent)``: the decoder's means, on the scale of X.
            log_density : ndarray of shape (n_steps,)
                Log-density of ``latent``, in nats, under ``ex_post_`` if there is one, else under
                the prior.
            corrected : ndarray of bool of shape (n_steps,)
                Whether each point was moved.

        Raises
        ------
        ValueError
            If x0 or x1 is not a single finite row with the features of X (for "bernoulli", in [0,
            1]), or a number of steps is too small.
        """
        check_is_fitted(self, "module_")
        validate_parameter_constraints(
            {"n_steps": [at_least(2)], "n_correction_steps": [at_least(0)]},
            {"n_steps": n_steps, "n_correction_steps": n_correction_steps},
            caller_name=f"{type(self).__name__}.interpolate",
        )
        seed = self._seed_for(random_state)
        ends = np.concatenate(
            [self._encode(self._one_row(x, name)) for x, name in ((x0, "x0"), (x1, "x1"))]
        )
        scorer = self._scorer(ends.dtype)
        with own_context(), torch.no_grad():
            start, end = as_tensor(ends, scorer.device, scorer.dtype)
            path = straight_path(start, end, n_steps)
            prior = copy_to(self.module_.density, scorer.device, path.dtype)
            generator = make_generator(seed, scorer.device)
            path, moved = raise_low_points(prior, path, n_correction_steps, generator)
            log_density = -scorer.model.density.energy(path) - self._log_partition
        latent = path.cpu().numpy()
        return Bunch(
            latent=latent,
            rows=self.inverse_transform(latent),
            log_density=log_density.cpu().numpy(),
            corrected=moved.cpu().numpy(),
        )

    def _one_row(self, x: Any, name: str) -> Any:
        """Turn a row, with its feature names if it has any, into a table with one row."""
        x = from_torch(x, name)
        if np.ndim(x) == 1:
            x = as_row(x)
        if as_frame(x) is None:
            check_array(
                x, dtype=None, ensure_all_finite="allow-nan", input_name=name, estimator=self
            )
        rows = self._check_rows(x)
        if np.isnan(rows).any():
            raise ValueError(f"{name} has missing entries; fill them first, for example by impute.")
        if len(rows) != 1:
            raise ValueError(f"{name} must be one row, but it has {len(rows)} of them.")
        return x
