"""How far scores may fall short, by rows of which the model knows the latents."""

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

# The noise of a score is shared by its rows, so that only blocks of rows are independent.
N_BLOCKS = 8


class Certificates(Latents):
    """Calls that measure the scores themselves."""

    def certify(self, n_samples=200, *, n_draws=None, random_state=None):
        """Measure by how much scores fall short, on rows that the model itself makes.

        A score is a lower bound in expectation. For a row that was sampled from the model the
        latents are known, and with them there is an upper bound as well: one draw of the score is
        replaced by these latents. The difference of the two bounds is at least what the scores of
        such rows fall short by. It says nothing about rows unlike those that the model makes.
        With ``ex_post`` that takes an estimator known to score the very density that it samples:
        `GaussianMixture`, `KernelDensity` or a prior of this package. `BayesianGaussianMixture` and
        a nested `EnergyVAE`, for example, score less.

        Parameters
        ----------
        n_samples : int, default=200
            Rows to sample; at least 8.
        n_draws : int, default=None
            Of each score. None uses ``n_score_draws``.
        random_state : int, RandomState instance or None, default=None
            None uses the estimator's own.

        Returns
        -------
        Bunch of float
            lower, upper
                Mean bounds of the log-likelihood of these rows, in nats, on the scale of X.
            gap
                ``upper - lower``, in nats; not below 0 in expectation.
            standard_error
                Of the gap.

        Raises
        ------
        ValueError
            If the prior cannot be sampled exactly, or the ``ex_post`` estimator is not known to
            score what it samples: then there is no upper bound.

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
                "certify needs exact draws of the latents, and this model's law of the latents has "
                "none. Those of a GaussianBernoulliRBMPrior of up to 32 hidden units, and of all "
                "normalised priors, have."
            )
        if not law.scores_exactly:
            raise ValueError(
                f"certify needs a law of the latents whose score is the density that it samples, "
                f"which is not known of ex_post={self.ex_post_!r}. It is of GaussianMixture, of "
                "KernelDensity with atol=0 and rtol=0, and of the priors of this package."
            )
        n_draws = self.n_score_draws if n_draws is None else n_draws
        seed = self._seed_for(random_state)
        generator = make_generator(spawn(seed, 1)[0])
        blocks = []
        with own_context(), torch.no_grad():
            Z = law.sample(n_samples, generator).numpy()
            rows = self._decoded(Z, lambda model, out: model.likelihood.sample(out, generator))
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
