"""Conditional distributions: imputation, conditional draws, and scores of single entries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.utils._param_validation import StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skevae.estimators.frames import as_frame, as_row, with_index_of
from skevae.evaluation.conditional import feature_scores, resampled_latents
from skevae.evaluation.importance import EncodedRows, Noise
from skevae.fitted.imputation import IMPUTATIONS, DecodedDraws, OwnScale, at_random
from skevae.fitted.latents import Latents
from skevae.scoring import Scorer
from skevae.utils.arrays import from_torch
from skevae.utils.device import own_context, resolve_device
from skevae.utils.random import make_generator
from skevae.utils.ranks import ALONE

# With an effective sample size below this, conditional draws contain many duplicates.
MIN_EFFECTIVE_DRAWS = 10


class Conditionals(Latents):
    """Methods for one part of a row given another."""

    def sample(self, n_samples=1, random_state=None, given=None):
        """Draw rows from the model: latents z, then x from the decoder's distribution.

        The distribution of the latents is the prior, or ``ex_post_`` if there is one.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None uses the ``random_state`` of the estimator: with an integer seed, each call returns
            the same rows, as long as the ``working_memory`` of scikit-learn is the same.
        given : dict, array-like, Series or DataFrame of one row, default=None
            A row whose missing entries (nan or None) are drawn given its other entries, by
            importance resampling of the latents. In a dict of names or indices, entries that are
            not listed are missing.

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            float64, on the scale of X; zeros and ones for ``likelihood="bernoulli"``. If `fit` was
            called with a DataFrame, a DataFrame with the same columns, dtypes and categories. To
            obtain the decoder's means instead of draws, pass ``prior_.sample`` to
            `inverse_transform`.

        Raises
        ------
        ValueError
            If ``given`` is not one row with the columns of X, has no missing entry, or has a value
            whose square overflows.

        Warns
        -----
        UserWarning
            If the effective sample size of conditional draws is below 10.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> vae = EnergyVAE(n_components=2, max_iter=2, random_state=0).fit(load_iris().data)
        >>> vae.sample(3).shape
        (3, 4)
        >>> vae.sample(3, given={0: 5.1})[:, 0]
        array([5.1, 5.1, 5.1])
        """
        check_is_fitted(self, "module_")
        n_samples = self._check_n_samples(n_samples)
        if given is not None:
            return self._sample_given(
                n_samples, given, make_generator(self._seed_for(random_state))
            )
        device = resolve_device(self.device)
        generator = make_generator(self._seed_for(random_state), device)
        with own_context():
            density = self._latent_density(device, torch.float64)
            Z = density.sample(n_samples, generator).cpu().numpy()
        # Decoded in the precision of training, which takes half the time.
        return self._decode(
            Z.astype(np.float32),
            lambda model, outputs: model.likelihood.sample(outputs, generator),
            np.float64,
        )

    def impute(self, X, *, method="mean", random_state=None):
        """Fill the missing entries of rows, given their observed ones.

        The importance draws of `score_samples` are resampled by their weights, so that they follow
        p(z | observed entries), and then decoded.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        method : {"mean", "median", "mode", "draw"}, default="mean"
            "mean" is the conditional mean, rounded for integers. For bounded columns, it is
            computed from 1000 conditional draws. "median" and "mode" are computed from 100 and 50
            conditional draws. For categories, "mean" and "median" are the most probable category.
            "draw" is a single draw, for multiple imputation.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws. None uses the ``random_state`` of the estimator. For "mean", it only
            affects bounded columns. The draws of a row also depend on the other incomplete rows of
            X and on the ``working_memory`` of scikit-learn.

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            In the format of the X of `fit`. Observed entries are unchanged.

        Raises
        ------
        ValueError
            If the columns of X differ from those in `fit`, the square of a value overflows, or
            ``method`` is unknown.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> vae = EnergyVAE(n_components=2, max_iter=2, random_state=0).fit(load_iris().data)
        >>> filled = vae.impute([[5.1, np.nan, 1.4, 0.2]])
        >>> bool(np.isfinite(filled).all())
        True
        """
        check_is_fitted(self, "module_")
        validate_parameter_constraints(
            {"method": [StrOptions(set(IMPUTATIONS))]},
            {"method": method},
            caller_name=f"{type(self).__name__}.impute",
        )
        rows = self._rows_within_reach(X)
        holes = np.isnan(rows).any(axis=1)
        if holes.any():
            rows = rows.copy()
            generator = make_generator(self._seed_for(random_state))
            rows[holes] = self._filled(rows[holes], method, generator)
        if self._bounds.are_open:
            return with_index_of(self._like_x(rows), X)
        numbers = self._numbers(X, reset=False, min_samples=1, ranks=ALONE)
        return with_index_of(self._completed(numbers, rows), X)

    def _completed(self, numbers: np.ndarray, rows: np.ndarray) -> Any:
        """Fill missing entries of numbers from rows, in which bounded columns are mapped.

        Mapping the observed entries back would round them.
        """
        return self._columns.rows(np.where(np.isnan(numbers), self._bounds.backward(rows), numbers))

    def _filled(self, rows: np.ndarray, method: str, generator: torch.Generator) -> np.ndarray:
        """Rows with imputed entries."""
        pool, n_kept, place = IMPUTATIONS[method]
        scorer = self._scorer(rows.dtype, holes=True)
        scale = OwnScale(self._standardizer, self._columns, self._bounds)

        def fill(part: EncodedRows, noise: Noise, draws_at_once: int) -> Tensor:
            positions = place(len(part.x), n_kept, generator).to(part.x)
            z, _ = resampled_latents(scorer.model, part, noise, draws_at_once, positions=positions)
            outputs = scorer.model.decoder(z)
            return pool(DecodedDraws(scorer.model.likelihood, outputs, generator, scale))

        with own_context(), torch.no_grad():
            values = scorer.in_parts(rows, fill, self.n_score_draws, in_order=True)
        values = self._standardizer.rows(torch.from_numpy(values))
        return np.where(np.isnan(rows), values, rows)

    def _sample_given(self, n_samples: int, given: Any, generator: torch.Generator) -> Any:
        """Draws given the observed entries of one row."""
        if isinstance(given, Mapping):
            numbers = self._columns.row(given)
            if np.isinf(numbers).any():
                column = self._columns.name(int(np.isinf(numbers).argmax()))
                raise ValueError(f"given has an infinite value in {column}. Use a finite one.")
            row = self._bounds.forward(numbers)
            self.module_.likelihood.check_rows(row)
            row = self._all_within_reach(*self._standardizer.in_reach(row), "given")
        else:
            given = from_torch(given, "given")
            if as_frame(given) is None and np.ndim(given) == 1:
                given = as_row(given)
            numbers = self._numbers(given, reset=False, min_samples=1, ranks=ALONE)
            row = self._rows_within_reach(given, "given")
        if len(row) != 1:
            raise ValueError(f"given must be one row, but it has {len(row)} of them.")
        if not np.isnan(row).any():
            raise ValueError("given has no missing entry. Set the entries to be drawn to nan.")
        scorer = self._scorer(row.dtype, holes=True)
        sizes: list[float] = []

        def draw(part: EncodedRows, noise: Noise, draws_at_once: int) -> Tensor:
            positions = at_random(1, n_samples, generator).to(part.x)
            z, size = resampled_latents(
                scorer.model, part, noise, draws_at_once, positions=positions
            )
            sizes.extend(size.tolist())
            return z[:, 0]

        with own_context(), torch.no_grad():
            z = scorer.in_parts(row, draw, self.n_score_draws, in_order=True)
        drawn = self._decoded(z, lambda model, outputs: model.likelihood.sample(outputs, generator))
        if sizes[0] < MIN_EFFECTIVE_DRAWS:
            warnings.warn(
                f"Conditional draws have an effective sample size of only {sizes[0]:.1f}, so they "
                "contain many duplicates. Raise n_score_draws, or fit with mask_rate > 0.",
                UserWarning,
                stacklevel=3,
            )
        return self._completed(numbers, drawn)

    def score_features(self, X):
        """Log-likelihood of each entry given all other observed entries of its row.

        The entries with the lowest values show why a row is unusual. Computed from the draws of
        `score_samples`. As a ratio of two estimates, it is not a lower bound.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            ln p(x_j | other entries) in nats, on the scale of X: a density for continuous columns,
            a probability for categories and integers. nan for missing entries. Minus infinity for
            values whose squares overflow, and nan for the other entries of their rows.

        Raises
        ------
        ValueError, TypeError
            If X does not have the columns of `fit`, or holds values that these cannot have.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> X = load_iris().data
        >>> vae = EnergyVAE(n_components=2, max_iter=2, random_state=0).fit(X)
        >>> vae.score_features(X).shape
        (150, 4)
        """
        check_is_fitted(self, "module_")
        rows, beyond = self._rows_in_reach(X)
        centred = np.where(beyond, self._standardizer.centre.astype(rows.dtype), rows)

        def score(scorer: Scorer, part: np.ndarray) -> dict[str, np.ndarray]:
            function = partial(feature_scores, scorer.model)
            return {"score": scorer.in_parts(part, function, self.n_score_draws)}

        scores = self._by_holes(centred, score)["score"]
        scores -= self._standardizer.log_spread.astype(scores.dtype)
        scores += self._bounds.log_derivatives(rows)
        scores[beyond.any(axis=1)] = np.nan
        scores[beyond] = -np.inf
        scores[np.isnan(rows)] = np.nan
        return scores
