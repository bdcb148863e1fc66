"""The way between rows of X and what a module sees."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor


def as_tensor(rows: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy an array, read-only or reversed as it may be, to a device."""
    return torch.tensor(np.ascontiguousarray(rows), device=device, dtype=dtype)


# Standardised values are squared, and the squares are summed, in evaluations.
MAX_FLOAT32_DEVIATIONS = 1e15
MAX_DEVIATIONS = 1e140


class Standardizer:
    """Way between rows of X and what a module sees, with its Jacobian.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
    enabled : bool
        Whether columns are centred and scaled to unit variance (constant ones: only centred, as
        everywhere in scikit-learn), or left as they are.

    Attributes
    ----------
    centre, spread : ndarray of shape (n_features,)
        Mean and standard deviation of each column.
    log_jacobian : float
        What is added to the log-density of standardised rows to get that of X: minus the sum of
        ln spread.

    Raises
    ------
    ValueError
        If values of X are so large that their variance overflows.
    """

    def __init__(self, X: np.ndarray, enabled: bool) -> None:
        n_features = X.shape[1]
        self.centre, self.spread = np.zeros(n_features), np.ones(n_features)
        if enabled:
            with np.errstate(over="ignore", invalid="ignore"):
                scaler = StandardScaler().fit(X.astype(np.float64, copy=False))
            self.centre, self.spread = scaler.mean_, scaler.scale_
        extreme = ~(np.isfinite(self.centre) & np.isfinite(self.spread))
        if extreme.any():
            raise ValueError(
                f"X has values too large to be standardised: the variance of column "
                f"{extreme.argmax()} overflows. Scale X down first."
            )
        self.log_jacobian = -float(np.log(self.spread).sum())

    def tensor(self, X: np.ndarray, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Rows as the module sees them, on the device."""
        # Centred in float64: a column near 1e6 would lose its digits in float32.
        rows = X - self.centre
        rows /= self.spread
        return as_tensor(rows, device, dtype)

    def rows(self, z: Tensor) -> np.ndarray:
        """Undo the standardisation."""
        values = z.cpu().numpy()
        return (values * self.spread + self.centre).astype(values.dtype, copy=False)

    def in_reach(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the values whose squares would overflow once they are standardised.

        Returns
        -------
        X : ndarray of shape (n, n_features)
            As float64 where float32 would overflow.
        beyond : ndarray of bool of shape (n, n_features)
            Values beyond the reach of float64 as well.
        """
        with np.errstate(over="ignore"):
            deviations = np.abs((X - self.centre) / self.spread)
        beyond = deviations > MAX_DEVIATIONS
        if X.dtype == np.float32 and (deviations > MAX_FLOAT32_DEVIATIONS).any():
            X = X.astype(np.float64)
        return X, beyond
