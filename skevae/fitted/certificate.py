"""Upper and lower bounds of scores, for rows sampled from the model."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import torch
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted

from skevae.fitted.latents import Latents
from skevae.utils.device import own_context
from skevae.utils.random import make_generator, spawn

# All rows of a call share their noise, so only blocks of rows are independent.
N_BLOCKS = 8


class Certificates(Latents):
    """Methods that check the accuracy of scores."""

    def certify(self, n_samples=200, *, n_draws=None, random_state=None):
        """Bound the mean log-likelihood of sampled rows from below and above.

        A score is a lower bound in expectation. For a row that was sampled from the model, the
        latents that generated it are known. Replacing one draw of the score by these latents gives
        an upper bound in expectation. On average, the scores of such rows are too low by at most
        the difference between the two bounds. The difference says nothing about rows that are
        unlike the model's samples. ``ex_post`` must be an estimator that is known to score exactly
        the density that it samples: `GaussianMixture`, `KernelDensity` or a prior of this package.
        Others, such as `BayesianGaussianMixture` and a nested `EnergyVAE`, score a lower bound of
        it.

        Parameters
        ----------
        n_samples : int, default=200
            Number of rows to sample; at least 8.
        n_draws : int, default=None
            Number of draws for each score. None uses ``n_score_draws``.
        random_state : int, RandomState instance or None, default=None
            None uses the ``random_state`` of the estimator.

        Returns
        -------
        Bunch of float
            lower, upper
                Mean bounds of the log-likelihood of these rows, in nats, on the scale of X.
            gap
                ``upper - lower``, in nats; not below 0 in expectation.
            standard_error
                Standard error of the gap.

        Raises
        ------
        ValueError
            If the prior cannot be sampled exactly, or the ``ex_post`` estimator is not known to
            score the density that it samples. There is no upper bound then.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skevae import EnergyVAE
        >>> vae = EnergyVAE(max_iter=20, random_state=0).fit(load_iris().data)
        >>> result = vae.certify()
        >>> bool(result.gap < 0.2)
        True
        """
        check_is_fitted(self, "module_")
        validate_parameter_constraints(
            {
                "n_samples": [Interval(Integral, N_BLOCKS, None, closed="left")],
                "n_draws": [Interval(Integral, 1, None, closed="left"), None],
            },
            {"n_samples": n_samples, "n_draws": n_draws},
            caller_name=f"{type(self).__name__}.certify",
        )
        law = self._latent_density("cpu", torch.float64)
        if not law.samples_exactly:
            raise ValueError(
                "certify needs exact draws of the latents, but the latent distribution of this "
                "model cannot be sampled exactly. Use a GaussianBernoulliRBMPrior with at most 32 "
                "hidden units, or a normalised prior."
            )
        if not law.scores_exactly:
            raise ValueError(
                "certify needs an estimator that scores exactly the density that it samples, which "
                f"is not known of ex_post={self.ex_post_!r}. Use GaussianMixture, KernelDensity "
                "with atol=0 and rtol=0, or a prior of this package."
            )
        n_draws = int(self.n_score_draws if n_draws is None else n_draws)
        seed = self._seed_for(random_state)
        generator = make_generator(spawn(seed, 1)[0])
        blocks = []
        with own_context(), torch.no_grad():
            Z = law.sample(n_samples, generator).numpy()
            rows = self._decoded(Z, lambda model, out: model.likelihood.sample(out, generator))
            # Integers are scored by the probability of their bins, so they must be in the centres.
            rows = self._columns.rounded(rows)
            scorer = self._scorer(rows.dtype)
            pieces = np.array_split(np.arange(n_samples), N_BLOCKS)
            for piece, own in zip(pieces, spawn(seed, N_BLOCKS + 1)[1:], strict=True):
                bounds = np.array(scorer.two_sided(rows[piece], Z[piece], n_draws, own))
                bounds += self._bounds.log_derivatives(rows[piece]).sum(1)
                blocks.append(bounds.mean(1))
        lower, upper = np.mean(blocks, axis=0)
        gaps = np.diff(blocks, axis=1)
        error = gaps.std(ddof=1) / np.sqrt(N_BLOCKS)
        return Bunch(lower=lower, upper=upper, gap=upper - lower, standard_error=error)
