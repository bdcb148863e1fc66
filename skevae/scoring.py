"""Rows to log-likelihoods, in chunks: proposals, stages and diagnostics of one fitted model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from skevae.densities.base import Density
from skevae.estimators.standardizer import Standardizer
from skevae.evaluation.chunks import chunk_sizes, memory_budget, row_slices, widest_output
from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import (
    DEFENSIVE_SHARE,
    METHODS,
    PROPOSAL_FREE_METHODS,
    Defence,
    log_weights,
    make_defence,
)
from skevae.evaluation.stages import (
    MIN_PILOT_DRAWS,
    PILOT,
    STAGES,
    by_number_of_draws,
    draws_needed,
)
from skevae.utils.random import make_generator, quasi_normal, spawn
from skevae.vae import VAE

# Noise of the posteriors' draws, and draws from the law of the latents that all rows share.
Proposal = tuple[Tensor, Defence | None]


class Scorer:
    """Importance-sampled log-likelihoods of rows under one model, in one dtype on one device.

    Proposals do not depend on the rows, so those of the fixed seed are made once and kept.

    Parameters
    ----------
    model : VAE
        In evaluation mode; its density is the law of the latents.
    standardizer : Standardizer
    law : Density
        The same law in float64 on the CPU, for draws that do not depend on the device.
    log_partition : float
        ln Z of the law of the latents; the upper end of its interval where it is not exact.
    seed : int
        Of the noise that all calls share.
    """

    def __init__(
        self,
        model: VAE,
        standardizer: Standardizer,
        law: Density,
        log_partition: float,
        seed: int,
    ) -> None:
        self.model = model
        self.standardizer = standardizer
        self.law = law
        self.log_partition = log_partition
        self.seed = seed
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.width = model_width(model, standardizer.centre.size)
        self._kept: dict[tuple[bool, tuple[int, ...]], dict[int, Proposal]] = {}

    def __call__(
        self,
        X: np.ndarray,
        method: str,
        diagnostics: Iterable[str],
        n_draws: int,
        tol: float,
        seed: int | None,
    ) -> dict[str, np.ndarray]:
        """Score rows.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
            On its own scale.
        method : str
            A key of `skevae.evaluation.importance.METHODS`.
        diagnostics : iterable of str
            Keys of `skevae.evaluation.diagnostics.DIAGNOSTICS`.
        n_draws : int
            The most draws that a row is given.
        tol : float
            Standard error that is small enough, in nats; 0 gives all draws to every row.
        seed : int or None
            Of the noise; None uses the kept proposals.

        Returns
        -------
        dict of ndarray of shape (n,)
            "log_likelihood" in nats on the scale of X, "n_draws", and the diagnostics.
        """
        rows_at_once, draws_at_once = chunk_sizes(
            len(X), n_draws, self.width, self.dtype.itemsize, memory_budget()
        )
        n_pilot = int(PILOT * n_draws)
        staged = tol > 0 and method in PROPOSAL_FREE_METHODS and n_pilot >= MIN_PILOT_DRAWS
        stages = [int(part * n_draws) for part in STAGES] if staged else [n_draws]
        proposals = self._proposals(method, stages, seed)
        # Of draws that have no part in the score.
        pilot = self._pilot(method, n_pilot, seed) if staged else None

        def weights(x: Tensor, proposal: Proposal) -> tuple[Tensor, Tensor]:
            return log_weights(self.model, x, proposal[0], draws_at_once, proposal[1])

        def evaluate(x: Tensor, n: int) -> dict[str, Tensor]:
            pair = weights(x, proposals[n])
            value = METHODS[method](*pair, self.log_partition)
            told = {name: DIAGNOSTICS[name](torch.add(*pair)) for name in diagnostics}
            return {"log_likelihood": value, **told}

        def needed(x: Tensor) -> Tensor:
            if pilot is None:
                return torch.full((len(x),), n_draws, device=self.device)
            error = DIAGNOSTICS["standard_error"](torch.add(*weights(x, pilot)))
            return draws_needed(error, n_pilot, stages, tol)

        parts: list[dict[str, Tensor]] = []
        for rows in row_slices(len(X), rows_at_once):
            x = self.standardizer.tensor(X[rows], self.device, self.dtype)
            x = self.model.likelihood.scored_rows(x, make_generator(self.seed))
            n_given = needed(x)
            values = by_number_of_draws(evaluate, x, n_given)
            parts.append({k: v.cpu() for k, v in {**values, "n_draws": n_given}.items()})
        scores = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        jacobian = self.standardizer.row_log_jacobians(X).astype(X.dtype)
        return {**scores, "log_likelihood": scores["log_likelihood"] + jacobian}

    def in_parts(
        self,
        X: np.ndarray,
        function: Callable[[Tensor, slice, tuple[Tensor, int, Defence | None]], Tensor],
        n_draws: int,
    ) -> np.ndarray:
        """Concatenate what a function makes of rows and the kept proposals of a score.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
        function : callable (x, rows, (noise, draws_at_once, defence)) -> Tensor
            Of the tensor ``x`` of the ``rows``, a slice of X; returns (rows, ...).
        n_draws : int
            Draws of a proposal.
        """
        rows_at_once, draws_at_once = chunk_sizes(
            len(X), n_draws, self.width, self.dtype.itemsize, memory_budget()
        )
        noise, defence = self._proposals("importance", [n_draws], None)[n_draws]
        parts = []
        for rows in row_slices(len(X), rows_at_once):
            x = self.standardizer.tensor(X[rows], self.device, self.dtype)
            x = self.model.likelihood.scored_rows(x, make_generator(self.seed))
            parts.append(function(x, rows, (noise, draws_at_once, defence)).cpu().numpy())
        return np.concatenate(parts)

    def _pilot(self, method: str, n_pilot: int, seed: int | None) -> Proposal:
        own = spawn(self.seed if seed is None else seed, 1)[0]
        return self._proposals(method, [n_pilot], own)[n_pilot]

    def _proposals(
        self, method: str, stages: Sequence[int], seed: int | None
    ) -> dict[int, Proposal]:
        """Proposals for each number of draws; those of the fixed seed are kept."""
        share = 0.0
        if method in PROPOSAL_FREE_METHODS and self.model.density.samples_exactly:
            share = DEFENSIVE_SHARE
        if seed is not None:
            return self._make_proposals(share, stages, seed)
        key = (share > 0, tuple(stages))
        if key not in self._kept:
            self._kept = {key: self._make_proposals(share, stages, self.seed)}
        return self._kept[key]

    def _make_proposals(
        self, share: float, stages: Sequence[int], seed: int
    ) -> dict[int, Proposal]:
        n_defence = {n: int(share * n) for n in stages}
        most, n_defending = max(stages), max(n_defence.values())
        # On the CPU whatever the device, so that a score does not depend on where it is made.
        noise = quasi_normal(most - n_defending, self.model.density.n_latent, seed)
        noise = noise[:, None].to(self.device, self.dtype)
        z = noise.new_empty((0, noise.shape[-1]))
        if n_defending:
            z = self.law.sample(n_defending, make_generator(seed)).to(noise)

        def defence(m: int) -> Defence | None:
            return make_defence(self.model, z[:m], self.log_partition) if m else None

        return {n: (noise[: n - m], defence(m)) for n, m in n_defence.items()}


@torch.no_grad()
def model_width(model: VAE, n_features: int) -> int:
    """Values of the widest layer of a model for one row and draw."""
    parameter = next(model.parameters())
    return max(
        widest_output(model.encoder, parameter.new_zeros((1, n_features))),
        widest_output(model.decoder, parameter.new_zeros((1, model.density.n_latent))),
        model.posterior.width,
    )


def in_chunks(
    function: Callable[[slice], np.ndarray], n_rows: int, width: int, itemsize: int
) -> np.ndarray:
    """Concatenate what a function makes of slices of rows that fit into the memory granted."""
    rows_at_once, _ = chunk_sizes(n_rows, 1, width, itemsize, memory_budget())
    return np.concatenate([function(rows) for rows in row_slices(n_rows, rows_at_once)])
