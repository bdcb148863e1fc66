"""Log-likelihoods of rows."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted

from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.methods import METHODS
from skevae.fitted.base import FittedModel
from skevae.utils.device import own_context
from skevae.utils.memory import by_row, has_holes

# The score of a row with values beyond the range of numbers, and its diagnostics.
HOPELESS = {
    "log_likelihood": -np.inf,
    "standard_error": np.inf,
    "effective_sample_size": 1.0,
    "pareto_k": np.inf,
}

# The score of a row without entries, which has probability 1.
CERTAIN = {"log_likelihood": 0.0, "standard_error": 0.0, "pareto_k": -np.inf}


class Scores(FittedModel):
    """Calls that score rows."""

    def score_samples(self, X):
        """Log-likelihood of each row.

        Estimated by importance sampling with ``n_score_draws`` draws, and normalised by the exact
        ln Z of the prior or the upper end of its interval. It is a lower bound in expectation.

        Most draws come from a Gaussian that is fitted to the posterior of the row, starting from
        the encoder's posterior (batch and match; Cai et al. 2024). A quarter of the draws come from
        the encoder's posterior. A tenth come from the distribution of the latents if it can be
        sampled exactly, which bounds the weights. With fewer than 100 draws or more than 128
        latents, no Gaussian is fitted, and the encoder's posterior is used instead. The
        distribution of the latents is the prior, or ``ex_post_`` if there is one. All rows share
        the same noise (scrambled Sobol points), which is fixed in `fit`, so the score of a row is
        deterministic and does not depend on the other rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            With ``likelihood="bernoulli"``, values strictly between 0 and 1 are probabilities. A
            binary row, drawn from them by a fixed function of the row, is scored.

        Returns
        -------
        ndarray of shape (n_samples,)
            ln p(x) in nats, on the scale of X (for "bernoulli", a log-probability). 0 for a row
            without entries, and minus infinity if the square of a value overflows.

        Raises
        ------
        ValueError, TypeError
            If X does not have the columns of `fit`, or holds values that these cannot have.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> X = load_iris().data
        >>> vae = EnergyVAE(n_components=2, max_iter=2, random_state=0).fit(X)
        >>> vae.score_samples([[5.1, 3.5, 1.4, 0.2], [5.1, np.nan, np.nan, 0.2]]).shape
        (2,)
        """
        return self._score(X, "importance", (), None, 0.0, None)["log_likelihood"]

    def log_likelihood(
        self,
        X,
        *,
        method="importance",
        n_draws=None,
        tol=0.0,
        random_state=None,
        given=None,
    ):
        """Log-likelihood of each row, with the diagnostics of its estimate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        method : {"importance", "annealed", "self_normalized"}, default="importance"
            "importance" is the method of `score_samples`, a lower bound in expectation. "annealed"
            is annealed importance sampling, also a lower bound in expectation: draws from the
            proposal of "importance" move towards the row's posterior in 100 steps (Neal 2001). Use
            it to check rows whose ``pareto_k`` is above 0.7. Each draw costs as much as several
            hundred importance draws, so pass a small ``n_draws``, such as 20. "self_normalized" is
            eq. 5 of "Variational Inference with Unnormalized Priors", which estimates ln Z from the
            row's own draws. **It is not a likelihood**: it is usually too high, by a lot for a
            prior trained with ``partition="posterior"``. With one draw it is only the
            reconstruction term. It is only meant to reproduce the paper's numbers.
        n_draws : int, default=None
            None uses ``n_score_draws``.
        tol : float in [0, 1), default=0.0
            Target standard error of a row, in nats. A pilot run with 1/16 of the draws determines
            how many draws a row needs: 1/16, 1/4, or all. Fewer draws lower the estimate by about
            half the square of its standard error. With 0, all rows get all draws. Ignored by
            "self_normalized", whose value depends on the number of draws.
        random_state : int, RandomState instance or None, default=None
            None uses the noise that was fixed in `fit`.
        given : array-like of bool, int or str, default=None
            Columns, as a mask, indices or names. The result is then ln p(other columns | these) =
            ln p(row) - ln p(these), a difference of two estimates and therefore not a lower bound.
            Its standard error includes the errors of both estimates; the smaller effective sample
            size and the larger k are returned.

        Returns
        -------
        Bunch of ndarrays of shape (n_samples,)
            log_likelihood
                In nats, on the scale of X.
            standard_error
                Standard error of ``log_likelihood`` by the delta method, in nats; infinite if the
                effective sample size is below 2. It is computed as for independent draws; the error
                of the scrambled Sobol points in use is mostly smaller. It covers importance
                sampling only, not the error of ln Z. Rows share their noise, so their errors are
                correlated.
            effective_sample_size
                Between 1 and ``n_draws``.
            pareto_k
                Shape parameter of the tail of the weights. Above 0.7, neither the estimate nor its
                standard error is reliable. Minus infinity if the weights are equal, nan with fewer
                than 25 draws.
            n_draws
                Number of draws of the row.

        Raises
        ------
        ValueError, TypeError
            If X does not have the columns of `fit`, or holds values that these cannot have; if an
            argument is out of its range; or if ``given`` selects no column or all.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> X = load_iris().data
        >>> vae = EnergyVAE(n_components=2, max_iter=2, random_state=0).fit(X)
        >>> result = vae.log_likelihood(X, given=[0, 1])
        >>> result.log_likelihood.shape, result.standard_error.shape
        ((150,), (150,))
        """
        validate_parameter_constraints(
            {
                "method": [StrOptions(set(METHODS))],
                "n_draws": [Interval(Integral, 1, None, closed="left"), None],
                "tol": [Interval(Real, 0, 1, closed="left")],
            },
            {"method": method, "n_draws": n_draws, "tol": tol},
            caller_name=f"{type(self).__name__}.log_likelihood",
        )
        options = (method, DIAGNOSTICS, n_draws, tol, random_state)
        if given is None:
            return Bunch(**self._score(X, *options))
        check_is_fitted(self, "module_")
        rows, beyond = self._rows_in_reach(X)
        chosen = self._columns.chosen(given, "given")
        if chosen.all() or not chosen.any():
            raise ValueError(f"given={given!r} must name some of the columns of X, but not all.")
        # Rows of probabilities: the same binary row, a function of all columns, for both terms.
        with own_context():
            rows = self._scorer(rows.dtype, has_holes(rows)).scored_rows(rows)
        joint = self._score_numbers(rows, beyond, *options)
        part = np.where(chosen, rows, np.nan)
        condition = self._score_numbers(part, beyond & chosen, *options)
        return Bunch(
            log_likelihood=difference(joint["log_likelihood"], condition["log_likelihood"]),
            **{name: join(joint[name], condition[name]) for name, join in JOINED.items()},
        )

    def _score(self, X, *options) -> dict[str, np.ndarray]:
        check_is_fitted(self, "module_")
        return self._score_numbers(*self._rows_in_reach(X), *options)

    def _score_numbers(
        self, rows, beyond, method, diagnostics, n_draws, tol, random_state
    ) -> dict[str, np.ndarray]:
        # The parameter may have been set after fit.
        validate_parameter_constraints(
            {"n_score_draws": self._parameter_constraints["n_score_draws"]},
            {"n_score_draws": self.n_score_draws},
            caller_name=type(self).__name__,
        )
        n_draws = int(self.n_score_draws if n_draws is None else n_draws)
        seed = None if random_state is None else self._seed_for(random_state)
        hopeless = beyond.any(axis=1)
        empty = by_row(lambda piece: np.isnan(piece).all(axis=1), rows)
        if hopeless.any():
            rows = np.where(beyond, self._standardizer.centre.astype(rows.dtype), rows)
        result = self._by_holes(
            rows, lambda scorer, part: scorer(part, method, diagnostics, n_draws, tol, seed)
        )
        if not self._bounds.are_open:
            result["log_likelihood"] += by_row(
                lambda piece: self._bounds.log_derivatives(piece).sum(1), rows
            )
        for name, values in result.items():
            if name in HOPELESS:
                values[hopeless] = HOPELESS[name]
            if name in CERTAIN:
                values[empty] = CERTAIN[name]
        return result


def difference(minuend: np.ndarray, subtrahend: np.ndarray) -> np.ndarray:
    """Difference of log-likelihoods; minus infinity if both are minus infinity."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(minuend), -np.inf, minuend - subtrahend)


# How the diagnostics of two estimates are combined for their difference.
JOINED = {
    "standard_error": np.hypot,
    "effective_sample_size": np.minimum,
    "pareto_k": np.maximum,
    "n_draws": np.maximum,
}
