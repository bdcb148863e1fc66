"""Shared code of the methods of a trained model: copies on devices, and checks of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin

from skevae.densities.base import Density
from skevae.densities.ex_post import EstimatorDensity
from skevae.estimators.base import TORCH_DTYPES
from skevae.estimators.transformer import StreamTransformer
from skevae.fitted.tables import Tables
from skevae.scoring import Scorer
from skevae.utils.device import copy_to, own_context, resolve_device
from skevae.utils.memory import by_row
from skevae.vae import VAE, accepting_holes


class FittedModel(ClassNamePrefixFeaturesOutMixin, StreamTransformer, Tables):
    """A trained model. Its methods use fitted attributes, not parameters that changed after fit."""

    module_: VAE
    prior_: Any
    ex_post_: Any
    n_score_draws: int
    _decided: Any
    _cache: dict[tuple[Any, ...], Scorer]

    def _scorer(self, dtype: np.dtype, holes: bool = False) -> Scorer:
        """Cached copy of the model in the precision of the data, with the latent distribution.

        With ``holes``, it accepts rows with missing entries.
        """
        device = resolve_device(self.device)
        # Changing the module in place increases the version counters of its tensors.
        tensors = (*self.module_.parameters(), *self.module_.buffers())
        state = (id(self.module_), *(tensor._version for tensor in tensors))
        log_partition = self._log_partition
        key = (device, np.dtype(dtype), holes, state, id(self.ex_post_), log_partition)
        if key not in self._cache:
            with own_context():
                model = copy_to(self.module_, device, TORCH_DTYPES[np.dtype(dtype)])
                # Proposals are fitted by gradients with respect to latents. Some layers would also
                # compute those of their weights, which doubles the time of the backward pass.
                model.requires_grad_(False)
                guide = model.density
                model.density = self._latent_density(device, TORCH_DTYPES[np.dtype(dtype)])
                law = self._latent_density("cpu", torch.float64)
                standardizer, seed = self._standardizer, self._decided.score_seed
                if holes:
                    model = accepting_holes(model, torch.from_numpy(standardizer.fill))
                scorer = Scorer(model, standardizer, law, guide, log_partition, seed)
            for other in list(self._cache):
                if other[3:] != key[3:]:
                    self._cache.pop(other, None)
            self._cache[key] = scorer
        return self._cache[key]

    def _latent_density(self, device: torch.device | str, dtype: torch.dtype) -> Density:
        """Distribution of the latents: ``ex_post_`` if there is one, else a copy of the prior."""
        if self.ex_post_ is None:
            return copy_to(self.module_.density, device, dtype)
        return EstimatorDensity(self.ex_post_, self.module_.density.n_latent)

    def _rows_in_reach(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Validate rows, and find values whose squares overflow."""
        X = self._check_rows(X)
        self.module_.likelihood.check_rows(X)
        return self._standardizer.in_reach(X)

    def _rows_within_reach(self, X: Any, name: str = "X") -> np.ndarray:
        """Validate rows, and raise if the square of a value overflows."""
        return self._all_within_reach(*self._rows_in_reach(X), name)

    def _all_within_reach(self, rows: np.ndarray, beyond: np.ndarray, name: str) -> np.ndarray:
        if beyond.any():
            row, column = np.argwhere(beyond)[0]
            raise ValueError(
                f"{name}[{row}, {column}] = {rows[row, column]:g} is too far from the mean of its "
                "column: its square overflows. Remove or clip such values."
            )
        return rows

    def _by_holes(
        self, rows: np.ndarray, call: Callable[[Scorer, np.ndarray], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Compute one entry per row, separately for rows with and without missing entries."""
        holes = by_row(lambda piece: np.isnan(piece).any(axis=1), rows)
        with own_context():
            if not holes.any() or holes.all():
                return call(self._scorer(rows.dtype, bool(holes.any())), rows)
            result: dict[str, np.ndarray] = {}
            for group in (False, True):
                part = call(self._scorer(rows.dtype, group), rows[holes == group])
                for name, values in part.items():
                    shape = (len(rows), *values.shape[1:])
                    result.setdefault(name, np.empty(shape, values.dtype))[holes == group] = values
        return result

    @property
    def _log_partition(self) -> float:
        """Ln Z of the latent distribution; the upper end of its interval if it is not exact."""
        return self.prior_.log_partition_interval_.high if self.ex_post_ is None else 0.0

    @property
    def _samples_exactly(self) -> bool:
        """Whether `sample` draws exactly from the distribution that `score_samples` estimates."""
        return self._latent_density("cpu", torch.float32).samples_exactly
