"""What the calls on a trained model share: its copies on devices, and checks of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from skevae.densities.base import Density
from skevae.densities.ex_post import EstimatorDensity
from skevae.estimators.base import TORCH_DTYPES, TorchDensityEstimator
from skevae.scoring import Scorer
from skevae.utils.device import copy_to, own_context, resolve_device
from skevae.vae import VAE


class FittedModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TorchDensityEstimator):
    """A trained model. Calls on it read what was fitted, not parameters changed since."""

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
            for other in list(self._cache):
                if other[2:] != key[2:]:
                    self._cache.pop(other, None)
            self._cache[key] = scorer
        return self._cache[key]

    def _latent_density(self, device: torch.device | str, dtype: torch.dtype) -> Density:
        """Law of the latents: what was fitted ex post, else a copy of the prior's density."""
        if self.ex_post_ is None:
            return copy_to(self.module_.density, device, dtype)
        return EstimatorDensity(self.ex_post_, self.module_.density.n_latent)

    def _rows_in_reach(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Validate rows for a call, and find values beyond the range of numbers."""
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
