"""What a trained `EnergyVAE` computes: scores, latents, reconstructions, paths and draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import Bunch, check_array
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skevae.densities.base import Density
from skevae.densities.ex_post import EstimatorDensity
from skevae.estimators.base import TORCH_DTYPES, TorchDensityEstimator
from skevae.estimators.standardizer import as_tensor
from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import METHODS
from skevae.interpolation import raise_low_points, straight_path
from skevae.scoring import Scorer, in_chunks
from skevae.utils.device import copy_to, own_context, resolve_device
from skevae.utils.random import make_generator
from skevae.vae import VAE


class FittedVAE(TorchDensityEstimator):
    """Calls on a trained model. They read what was fitted, not the parameters changed since."""

    module_: VAE
    prior_: Any
    ex_post_: Any
    n_score_draws: int
    _decided: Any
    _cache: dict[tuple[Any, ...], Scorer]

    def _scorer(self, dtype: np.dtype) -> Scorer:
        """Copy of the model in the precision of the data, with the law of the latents; kept."""
        device = resolve_device(self.device)
        # A change of the module in place makes new versions of its tensors.
        state = (id(self.module_), *(t._version for t in self.module_.parameters()))
        key = (device, np.dtype(dtype), state, id(self.ex_post_))
        if key not in self._cache:
            with own_context():
                model = copy_to(self.module_, device, TORCH_DTYPES[np.dtype(dtype)])
                model.density = self._latent_density(device, TORCH_DTYPES[np.dtype(dtype)])
                law = self._latent_density("cpu", torch.float64)
                standardizer, seed = self._standardizer, self._decided.score_seed
                scorer = Scorer(model, standardizer, law, self._log_partition, seed)
            self._cache = {k: v for k, v in self._cache.items() if k[2:] == key[2:]}
            self._cache[key] = scorer
        return self._cache[key]

    def _latent_density(self, device: torch.device | str, dtype: torch.dtype) -> Density:
        """Law of the latents: what was fitted ex post, else a copy of the prior's density."""
        if self.ex_post_ is None:
            return copy_to(self.module_.density, device, dtype)
        return EstimatorDensity(self.ex_post_, self.module_.density.n_latent)

    def _rows_in_reach(self, X: Any) -> np.ndarray:
        """Validate rows for a call; float32 whose squares would overflow becomes float64."""
        X = self._check_rows(X)
        self.module_.likelihood.check_rows(X)
        return self._standardizer.in_reach(X)

    @property
    def _log_partition(self) -> float:
        """Ln Z of the law of the latents; the upper end of its interval where it is not exact."""
        return self.prior_.log_partition_interval_.high if self.ex_post_ is None else 0.0

    @property
    def _samples_exactly(self) -> bool:
        """Whether `sample` draws from the very law of which `score_samples` is an estimate."""
        return self._latent_density("cpu", torch.float32).samples_exactly

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
        given = self._rows_in_reach(X)
        # It may have been set since fit.
        validate_parameter_constraints(
            {"n_score_draws": self._parameter_constraints["n_score_draws"]},
            {"n_score_draws": self.n_score_draws},
            caller_name=type(self).__name__,
        )
        n_draws = self.n_score_draws if n_draws is None else n_draws
        seed = None if random_state is None else self._seed_for(random_state)
        scorer = self._scorer(given.dtype)
        with own_context():
            return scorer(given, method, diagnostics, n_draws, tol, seed)

    def transform(self, X):
        """Mean of the posterior of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            E[z | x], in the dtype of X; for flows, an average over fixed points of noise.
        """
        return self._encode(X)

    def _encode(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "module_")
        rows = self._rows_in_reach(X)
        scorer = self._scorer(rows.dtype)
        model = scorer.model

        def encode(part: slice) -> np.ndarray:
            x = self._standardizer.tensor(rows[part], scorer.device, scorer.dtype)
            return model.posterior.mean(model.encoder(x)).cpu().numpy()

        with own_context(), torch.no_grad():
            return in_chunks(encode, len(rows), scorer.width, rows.itemsize)

    def inverse_transform(self, Z):
        """Mean of the rows that latents decode to.

        Parameters
        ----------
        Z : array-like of shape (n_samples, n_components)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            E[x | z], on the scale of X, in the dtype of Z.
        """
        check_is_fitted(self, "module_")
        Z = self._check_latent(Z, self.module_.density.n_latent, "Z")
        return self._decode(Z, lambda model, outputs: model.likelihood.mean(outputs))

    def reconstruct(self, X):
        """Decode the posterior mean of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            ``inverse_transform(transform(X))``.
        """
        return self.inverse_transform(self._encode(X))

    def interpolate(self, x0, x1, n_steps=10, n_correction_steps=0, random_state=None):
        """Walk from one row to another through the latents, avoiding low-density regions.

        The path is straight between the two posterior means. With ``n_correction_steps``, those of
        its points that are less probable than both ends, under the trained prior, are moved uphill
        by its sampler: each step goes to the mean of 64 transitions from the point (for the Gibbs
        sampler of an RBM, mean shift) if that raises the prior's density, until the point is as
        probable as the less probable end. It is the prior that corrects even if there is an
        ``ex_post_``, which has no Markov chain.

        Parameters
        ----------
        x0, x1 : array-like of shape (n_features,) or (1, n_features)
            The first row and the last.
        n_steps : int, default=10
            Points of the path, ends included; at least 2.
        n_correction_steps : int, default=0
            Steps of correction at most, for each point; the ends stay.
        random_state : int, RandomState instance or None, default=None
            Of the corrections. None uses the estimator's own.

        Returns
        -------
        Bunch
            In float32 if both rows are, else in float64.

            latent : ndarray of shape (n_steps, n_components)
                The path.
            rows : ndarray of shape (n_steps, n_features)
                What `inverse_transform` makes of it: the decoder's means, on the scale of X.
            log_density : ndarray of shape (n_steps,)
                Of ``latent``, in nats, under the law of the latents: ``ex_post_`` if there is one,
                else the prior.
            corrected : ndarray of bool of shape (n_steps,)
                Which points were moved.

        Raises
        ------
        ValueError
            If x0 or x1 is not one finite row with the features of X (for "bernoulli", in [0, 1]),
            or a number of steps is too small.
        """
        check_is_fitted(self, "module_")
        at_least = partial(Interval, Integral, right=None, closed="left")
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
        """Turn a row, with its feature names if it has any, into a table of one."""
        if np.ndim(x) == 1:
            x = x.to_frame().T if hasattr(x, "to_frame") else np.asarray(x)[None]
        rows = check_array(x, dtype=[np.float64, np.float32], input_name=name, estimator=self)
        if len(rows) != 1:
            raise ValueError(f"{name} must be one row, but it has {len(rows)} of them.")
        return x

    def sample(self, n_samples=1, random_state=None):
        """Draw rows from the model: z from its law, x from the decoder's distribution.

        The law of the latents is the prior, or ``ex_post_`` if there is one.

        Parameters
        ----------
        n_samples : int, default=1
        random_state : int, RandomState instance or None, default=None
            None uses the estimator's own ``random_state``, so that an estimator with an integer
            seed returns the same rows each time.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float64, on the scale of X; zeros and ones for ``likelihood="bernoulli"``. For the
            decoder's means instead of draws, decode ``prior_.sample`` by `inverse_transform`.
        """
        check_is_fitted(self, "module_")
        n_samples = self._check_n_samples(n_samples)
        device = resolve_device(self.device)
        generator = make_generator(self._seed_for(random_state), device)
        with own_context():
            density = self._latent_density(device, torch.float64)
            Z = density.sample(n_samples, generator).cpu().numpy()
        return self._decode(Z, lambda model, outputs: model.likelihood.sample(outputs, generator))

    def _decode(self, Z: np.ndarray, read: Callable[[VAE, Tensor], Tensor]) -> np.ndarray:
        """Decode latents in bounded memory, ``read`` the outputs, and undo the standardisation."""
        scorer = self._scorer(Z.dtype)

        def decode(part: slice) -> np.ndarray:
            outputs = scorer.model.decoder(as_tensor(Z[part], scorer.device, scorer.dtype))
            return self._standardizer.rows(read(scorer.model, outputs))

        with own_context(), torch.no_grad():
            return in_chunks(decode, len(Z), scorer.width, Z.itemsize)
