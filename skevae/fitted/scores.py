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
from skevae.evaluation.importance import METHODS
from skevae.fitted.base import FittedModel

# The score of a row beyond the range of numbers, and its diagnostics.
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

        Importance-sampled with ``n_score_draws`` draws from the row's posterior (a tenth of them
        from the law of the latents, where that can be sampled exactly: it bounds the weights), and
        normalised by the prior's exact ln Z or the upper end of its interval. It is a lower bound
        in expectation. The law of the latents is the prior, or ``ex_post_`` if there is one. All
        rows share one block of noise fixed at `fit` (scrambled Sobol points), so a row's score is
        deterministic and does not depend on the other rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            With ``likelihood="bernoulli"``, values strictly between 0 and 1 are probabilities; the
            row scored is a binary one, drawn from them by a fixed function of the row.

        Returns
        -------
        ndarray of shape (n_samples,)
            ln p(x) in nats, on the scale of X (for "bernoulli", a log-probability).
        """
        return self._score(X, "importance", (), None, 0.0, None)["log_likelihood"]

    def log_likelihood(self, X, *, method="importance", n_draws=None, tol=0.0, random_state=None):
        """Log-likelihood of each row, with the diagnostics of its estimate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        method : {"importance", "self_normalized"}, default="importance"
            "importance" is what `score_samples` returns, a lower bound in expectation.
            "self_normalized" is eq. 5 of "Variational Inference with Unnormalized Priors", which
            estimates ln Z from the row's own draws. **It flatters**: it is usually too high, by
            much for a prior trained with ``partition="posterior"``, and with one draw it is the
            reconstruction term alone. It is here so that the paper's numbers can be reproduced.
        n_draws : int, default=None
            None uses ``n_score_draws``.
        tol : float in [0, 1), default=0.0
            Standard error of a row, in nats, that is small enough. A pilot run with a sixteenth of
            the draws tells how many a row needs: a sixteenth, a quarter, or all. Fewer draws lower
            the estimate, by about half the square of their error. 0 gives all draws to every row.
            Ignored by "self_normalized", whose value depends on the number of draws.
        random_state : int, RandomState instance or None, default=None
            None uses the noise that was fixed at `fit`.

        Returns
        -------
        Bunch of ndarrays of shape (n_samples,)
            log_likelihood
                In nats, on the scale of X.
            standard_error
                Of ``log_likelihood``, by the delta method, in nats; infinite for one draw. It is
                that of independent draws, which those in use (scrambled Sobol points) mostly
                improve on, and speaks of the importance sampling alone, not of ln Z. Rows share
                their noise, so errors of different rows are correlated.
            effective_sample_size
                Between 1 and ``n_draws``.
            pareto_k
                Tail shape of the weights. Above 0.7 neither estimate nor error can be relied on;
                minus infinity where the weights are equal, nan below 25 draws.
            n_draws
                That the row was given.
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
        return Bunch(**self._score(X, method, DIAGNOSTICS, n_draws, tol, random_state))

    def _score(self, X, method, diagnostics, n_draws, tol, random_state) -> dict[str, np.ndarray]:
        check_is_fitted(self, "module_")
        given, beyond = self._rows_in_reach(X)
        # It may have been set since fit.
        validate_parameter_constraints(
            {"n_score_draws": self._parameter_constraints["n_score_draws"]},
            {"n_score_draws": self.n_score_draws},
            caller_name=type(self).__name__,
        )
        n_draws = self.n_score_draws if n_draws is None else n_draws
        seed = None if random_state is None else self._seed_for(random_state)
        hopeless = beyond.any(axis=1)
        if hopeless.any():
            given = np.where(beyond, self._standardizer.centre.astype(given.dtype), given)
        result = self._by_holes(
            given, lambda scorer, rows: scorer(rows, method, diagnostics, n_draws, tol, seed)
        )
        empty = np.isnan(given).all(axis=1)
        for name, values in result.items():
            if name in HOPELESS:
                values[hopeless] = HOPELESS[name]
            if name in CERTAIN:
                values[empty] = CERTAIN[name]
        return result
