"""Log-likelihoods of rows, in chunks: proposals, stages and diagnostics of a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from skevae.densities.base import Density
from skevae.estimators.standardizer import Standardizer
from skevae.evaluation.certificate import two_sided
from skevae.evaluation.chunks import chunk_sizes, widest_output
from skevae.evaluation.diagnostics import DIAGNOSTICS
from skevae.evaluation.importance import EncodedRows, Noise, make_defence
from skevae.evaluation.methods import METHODS, Method
from skevae.evaluation.refinement import make_directions, refine
from skevae.evaluation.stages import (
    MIN_PILOT_DRAWS,
    PILOT,
    STAGES,
    by_number_of_draws,
    draws_needed,
)
from skevae.utils.memory import memory_budget, row_slices
from skevae.utils.random import independent_normal, make_generator, quasi_normal, spawn
from skevae.vae import VAE

# The noise for each number of draws, and the directions by which proposals are fitted.
Proposals = tuple[dict[int, Noise], Tensor]


class Scorer:
    """Importance-sampled log-likelihoods of rows under one model, in one dtype on one device.

    The noise of draws does not depend on the rows, so the noise of the fixed seed is cached.

    Parameters
    ----------
    model : VAE
        In evaluation mode; its density is the distribution of the latents.
    standardizer : Standardizer
    law : Density
        The same distribution in float64 on the CPU, for draws that do not depend on the device.
    guide : Density
        A distribution of the latents whose energy has a gradient, used to fit proposals.
    log_partition : float
        ln Z of the distribution of the latents; the upper end of its interval if it is not exact.
    seed : int
        Seed of the noise that all calls share.
    """

    def __init__(
        self,
        model: VAE,
        standardizer: Standardizer,
        law: Density,
        guide: Density,
        log_partition: float,
        seed: int,
    ) -> None:
        self.model = model
        self.standardizer = standardizer
        self.law = law
        self.guide = guide
        self.log_partition = log_partition
        self.seed = seed
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.width = model_width(model, standardizer.centre.size)
        self._kept: dict[tuple[Method, tuple[int, ...]], Proposals] = {}

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
            On the original scale.
        method : str
            A key of `skevae.evaluation.methods.METHODS`.
        diagnostics : iterable of str
            Keys of `skevae.evaluation.diagnostics.DIAGNOSTICS`.
        n_draws : int
            Maximum number of draws for a row.
        tol : float
            Target standard error, in nats; with 0, every row gets all draws.
        seed : int or None
            Seed of the noise; None uses the cached noise.

        Returns
        -------
        dict of ndarray of shape (n,)
            "log_likelihood" in nats on the scale of X, "n_draws", and the diagnostics.
        """
        how = METHODS[method]
        n_pilot = int(PILOT * n_draws)
        staged = tol > 0 and how.is_bound and n_pilot >= MIN_PILOT_DRAWS
        stages = [int(part * n_draws) for part in STAGES] if staged else [n_draws]
        proposals = self._proposals(how, stages, seed)
        # Draws that are not used in the score.
        pilot = self._pilot(how, n_pilot, n_draws, seed) if staged else None

        def score(rows: EncodedRows, draws_at_once: int) -> dict[str, Tensor]:
            def weights(chosen: EncodedRows, noise: Noise) -> tuple[Tensor, Tensor]:
                return how.weights(self.model, self.guide.energy, chosen, noise, draws_at_once)

            def evaluate(chosen: Tensor, n: int) -> dict[str, Tensor]:
                pair = weights(rows.at(chosen), proposals[0][n])
                value = how.estimate(*pair, self.log_partition)
                told = {name: DIAGNOSTICS[name](torch.add(*pair)) for name in diagnostics}
                return {"log_likelihood": value, **told}

            n_given = torch.full((len(rows.x),), n_draws, device=self.device)
            if pilot is not None:
                error = DIAGNOSTICS["standard_error"](torch.add(*weights(rows, pilot)))
                n_given = draws_needed(error, n_pilot, stages, tol)
            return {**by_number_of_draws(evaluate, n_given), "n_draws": n_given}

        parts = [
            {name: values.cpu() for name, values in score(rows, draws_at_once).items()}
            for rows, draws_at_once in self._encoded(X, n_draws, proposals)
        ]
        scores = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        jacobian = self.standardizer.row_log_jacobians(X).astype(X.dtype)
        return {**scores, "log_likelihood": scores["log_likelihood"] + jacobian}

    def scored_rows(self, X: np.ndarray) -> np.ndarray:
        """The rows that are scored: for probabilities, the binary rows drawn from them."""
        x = self.standardizer.tensor(X, self.device, self.dtype)
        drawn = self.model.likelihood.scored_rows(x, make_generator(self.seed))
        return np.where((drawn == x).cpu().numpy(), X, self.standardizer.rows(drawn))

    def in_parts(
        self, X: np.ndarray, function: Callable[[EncodedRows, Noise, int], Tensor], n_draws: int
    ) -> np.ndarray:
        """Concatenate the results of a function of rows and the cached draws of a score.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
        function : callable (rows, noise, draws_at_once) -> Tensor of shape (rows, ...)
        n_draws : int
        """
        n_draws = int(n_draws)
        proposals = self._proposals(METHODS["importance"], [n_draws], None)
        return np.concatenate(
            [
                function(rows, proposals[0][n_draws], draws_at_once).cpu().numpy()
                for rows, draws_at_once in self._encoded(X, n_draws, proposals)
            ]
        )

    def two_sided(
        self, X: np.ndarray, Z: np.ndarray, n_draws: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds of the log-likelihood, in expectation: (n,) each.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
            Rows sampled from the model.
        Z : ndarray of shape (n, D)
            The latents of these rows.
        n_draws : int
        seed : int
        """
        generator = make_generator(spawn(seed, 3)[2])
        proposals = self._make_proposals(METHODS["importance"], [n_draws], seed, independent_normal)
        jacobian = self.standardizer.row_log_jacobians(X)
        lower: list[np.ndarray] = []
        upper: list[np.ndarray] = []
        start = 0
        for rows, draws_at_once in self._encoded(X, n_draws, proposals):
            z = torch.from_numpy(Z[start : (start := start + len(rows.x))]).to(rows.x)
            pair = two_sided(self.model, rows, proposals[0][n_draws], draws_at_once, z, generator)
            for values, part in zip((lower, upper), pair, strict=True):
                values.append(part.cpu().numpy() - self.log_partition)
        return np.concatenate(lower) + jacobian, np.concatenate(upper) + jacobian

    def _encoded(
        self, X: np.ndarray, n_draws: int, proposals: Proposals
    ) -> Iterator[tuple[EncodedRows, int]]:
        """Encoded rows with fitted proposals, in chunks within the memory budget."""
        noise, directions = proposals
        rows_at_once, draws_at_once = chunk_sizes(
            len(X), n_draws, self.width, self.dtype.itemsize, memory_budget()
        )
        for part in row_slices(len(X), rows_at_once):
            x = self.standardizer.tensor(X[part], self.device, self.dtype)
            x = self.model.likelihood.scored_rows(x, make_generator(self.seed))
            with torch.no_grad():
                outputs = self.model.encoder(x)
                gaussians = None
                if any(len(n.refined) for n in noise.values()):
                    gaussians = refine(
                        self.model, self.guide.energy, x, outputs, directions, draws_at_once
                    )
            yield EncodedRows(x, outputs, gaussians), draws_at_once

    def _pilot(self, method: Method, n_pilot: int, n_draws: int, seed: int | None) -> Noise:
        """Draws in the same proportions as those of a score with ``n_draws``."""
        own = spawn(self.seed if seed is None else seed, 1)[0]
        return self._proposals(method, [n_pilot, n_draws], own)[0][n_pilot]

    def _proposals(self, method: Method, stages: Sequence[int], seed: int | None) -> Proposals:
        """Noise for each number of draws; the noise of the fixed seed is cached."""
        if seed is not None:
            return self._make_proposals(method, stages, seed)
        key = (method, tuple(stages))
        if key not in self._kept:
            self._kept = {key: self._make_proposals(method, stages, self.seed)}
        return self._kept[key]

    def _make_proposals(
        self,
        method: Method,
        stages: Sequence[int],
        seed: int,
        points: Callable[[int, int, int], Tensor] = quasi_normal,
    ) -> Proposals:
        """Noise for scores by a method."""
        n_latent = self.model.density.n_latent
        like = next(self.model.parameters())
        share = method.defensive_share if self.model.density.samples_exactly else 0.0
        _, aside, _, moves, defences = spawn(seed, 5)
        directions = make_directions(n_latent, aside).to(self.device)
        refines = len(directions) > 0 and max(stages) >= method.min_refined_draws
        own_share = method.own_share if refines else 1.0
        # Always on the CPU, so that a score does not depend on the device.
        n = int(share * max(stages))
        z = self.law.sample(n, make_generator(defences)) if n else None

        def noise(n_draws: int) -> Noise:
            m = int(share * n_draws)
            n_own = min(int(own_share * n_draws), n_draws - m)
            standard = points(n_draws - m, n_latent, seed).to(like)
            refined, own = standard.tensor_split([n_draws - m - n_own])
            defence = None
            if z is not None and m:
                defence = make_defence(self.model, z[:m].to(like), self.log_partition)
            return Noise(refined, own[:, None], defence, moves)

        return {n: noise(n) for n in stages}, directions


@torch.no_grad()
def model_width(model: VAE, n_features: int) -> int:
    """Number of values of the widest layer of a model for one row and draw."""
    parameter = next(model.parameters())
    return max(
        widest_output(model.encoder, parameter.new_zeros((1, n_features))),
        widest_output(model.decoder, parameter.new_zeros((1, model.density.n_latent))),
        model.posterior.width,
    )


def in_chunks(
    function: Callable[[slice], np.ndarray], n_rows: int, width: int, itemsize: int
) -> np.ndarray:
    """Concatenate the results of a function of slices of rows within the memory budget."""
    rows_at_once, _ = chunk_sizes(n_rows, 1, width, itemsize, memory_budget())
    first, *others = row_slices(n_rows, rows_at_once)
    part = function(first)
    result = np.empty((n_rows, *part.shape[1:]), part.dtype)
    result[first] = part
    for rows in others:
        result[rows] = function(rows)
    return result
