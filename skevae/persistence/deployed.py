"""Encoder and decoder as standalone modules: from rows of numbers to latents, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skevae.energy_vae import EnergyVAE
from skevae.estimators.bounds import Bounds
from skevae.utils.device import copy_to
from skevae.vae import accepting_holes


class Scale(nn.Module):
    """Centring and scaling in float32 with the precision of float64.

    The centre is the sum of two float32 numbers. Subtracting the larger one from a value close to
    it is exact, so that a column near 1e6 loses no precision.
    """

    high: Tensor
    low: Tensor
    spread: Tensor

    def __init__(self, centre: np.ndarray, spread: np.ndarray) -> None:
        super().__init__()
        high = centre.astype(np.float32)
        self.register_buffer("high", torch.from_numpy(high))
        self.register_buffer("low", torch.from_numpy((centre - high).astype(np.float32)))
        self.register_buffer("spread", torch.from_numpy(spread.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """Rows to standardised rows: (n, n_features) -> (n, n_features)."""
        return ((x - self.high) - self.low) / self.spread

    def backward(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        return (x * self.spread + self.low) + self.high


class RealLine(nn.Module):
    """The maps of `Bounds` between bounded columns and the real line; other columns are unchanged.

    A value that is not between its bounds becomes nan, a missing entry.
    """

    low: Tensor
    high: Tensor
    below: Tensor
    above: Tensor
    is_identity: bool

    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self.is_identity = bounds.are_open
        below, above = np.isfinite(bounds.low), np.isfinite(bounds.high)
        self.register_buffer("below", torch.from_numpy(below))
        self.register_buffer("above", torch.from_numpy(above))
        for name, mask in (("low", below), ("high", above)):
            values = np.where(mask, getattr(bounds, name), 0.0).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, x: Tensor) -> Tensor:
        """Bounded columns to the real line: (n, n_features) -> (n, n_features)."""
        if self.is_identity:
            return x
        # ln(x - a), -ln(b - x), or their sum if there are two bounds.
        left, right = (x - self.low).log(), -(self.high - x).log()
        bounded = torch.where(self.below, left, 0.0) + torch.where(self.above, right, 0.0)
        outside = self.below & (x <= self.low) | self.above & (x >= self.high)
        return torch.where(self.below | self.above, torch.where(outside, torch.nan, bounded), x)

    def backward(self, u: Tensor) -> Tensor:
        """Undo `forward`."""
        if self.is_identity:
            return u
        inside = self.low + (self.high - self.low) * u.sigmoid()
        one = torch.where(self.below, self.low + u.exp(), self.high - (-u).exp())
        bounded = torch.where(self.below & self.above, inside, one)
        return torch.where(self.below | self.above, bounded, u)


class DeployedEncoder(nn.Module):
    """Rows to the means of their posteriors, as `EnergyVAE.transform` computes them.

    Codes that are none of a column's categories are treated as missing.
    """

    n_categories: Tensor

    def __init__(self, estimator: EnergyVAE) -> None:
        super().__init__()
        standardizer = estimator._standardizer
        fill = torch.from_numpy(standardizer.fill)
        model = accepting_holes(copy_to(estimator.module_, "cpu", torch.float32), fill)
        self.real_line = RealLine(estimator._bounds)
        self.scale = Scale(standardizer.centre, standardizer.spread)
        self.encoder, self.posterior = model.encoder, model.posterior
        self.register_buffer("n_categories", torch.from_numpy(estimator._columns.n_categories))

    def forward(self, X: Tensor) -> Tensor:
        """Encode rows: (n, n_features) -> (n, D)."""
        unknown = (X < 0) | (X >= self.n_categories) | (X != X.round())
        X = torch.where((self.n_categories > 0) & unknown, torch.nan, X)
        return self.posterior.mean(self.encoder(self.scale(self.real_line(X))))


class DeployedDecoder(nn.Module):
    """Latents to the means of rows, as `EnergyVAE.inverse_transform` computes them."""

    integer: Tensor

    def __init__(self, estimator: EnergyVAE) -> None:
        super().__init__()
        standardizer = estimator._standardizer
        model = copy_to(estimator.module_, "cpu", torch.float32)
        self.decoder, self.likelihood = model.decoder, model.likelihood
        self.scale = Scale(standardizer.centre, standardizer.spread)
        self.real_line = RealLine(estimator._bounds)
        self.register_buffer("integer", torch.from_numpy(estimator._columns.integer))

    def forward(self, Z: Tensor) -> Tensor:
        """Decode latents: (n, D) -> (n, n_features)."""
        rows = self.scale.backward(self.likelihood.mean(self.decoder(Z)))
        rows = self.real_line.backward(rows)
        return torch.where(self.integer, rows.round(), rows)


def describe_columns(estimator: EnergyVAE) -> list[dict[str, Any]]:
    """Name and kind of each column, with the list of categories in the order of their codes."""
    columns = estimator._columns
    names = range(columns.n_columns) if columns.names is None else columns.names
    return [
        {"name": name, "categories": categories, "integer": bool(integer)}
        for name, categories, integer in zip(
            names, columns.categories, columns.integer, strict=True
        )
    ]
