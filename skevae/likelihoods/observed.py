"""The likelihood of the observed entries of a row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skevae.likelihoods.base import Likelihood


class Observed(Likelihood):
    """p(x_o | z), the product over the observed entries o of a row; missing entries are nan.

    Given z, the entries are independent, so the density of a subset of them is the product of its
    factors (Mattei & Frellsen 2019, "MIWAE").

    Parameters
    ----------
    complete : Likelihood
        Likelihood of rows without missing entries.
    """

    def __init__(self, complete: Likelihood) -> None:
        super().__init__(complete.n_features, complete.n_outputs)
        self.complete = complete

    def feature_log_density(self, x: Tensor, outputs: Tensor) -> Tensor:
        missing = x.isnan()
        # Missing entries are filled before and masked afterwards, so that no gradient is nan.
        values = self.complete.feature_log_density(x.masked_fill(missing, 0), outputs)
        return values.masked_fill(missing, 0)

    def mean(self, outputs: Tensor) -> Tensor:
        return self.complete.mean(outputs)

    def pooled_mean(self, outputs: Tensor) -> Tensor:
        return self.complete.pooled_mean(outputs)

    def sample(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self.complete.sample(outputs, generator)

    def check_rows(self, X: np.ndarray) -> None:
        self.complete.check_rows(X)

    def prepare(self, X: np.ndarray) -> None:
        self.complete.prepare(X)

    def training_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self._of_observed(self.complete.training_rows, x, generator)

    def scored_rows(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self._of_observed(self.complete.scored_rows, x, generator)

    @staticmethod
    def _of_observed(
        function: Callable[[Tensor, torch.Generator], Tensor],
        x: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        missing = x.isnan()
        return function(x.masked_fill(missing, 0), generator).masked_fill(missing, torch.nan)

    def free(self, x: Tensor) -> Tensor:
        return self.complete.free(x)

    def bound(self, raw: Tensor) -> Tensor:
        return self.complete.bound(raw)
