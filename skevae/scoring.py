"""Log-likelihoods of rows, in chunks: proposals, stages and diagnostics of a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from skevae.densities.base import Density
from skevae.estimators.standardizer import Standardizer
from skevae.evaluation.certificate import two_sided
from skevae.evaluation.chunks import balanced, chunk_sizes, widest_output
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
from skevae.utils.threads import SMALL_SCORE, in_threads, is_small, n_threads, one_thread
from skevae.vae import VAE

# The noise for each number of draws, and the directions by which proposals are fitted.
Proposals = tuple[dict[int, Noise], Tensor]

PartT = TypeVar("PartT")


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
            result = {**by_number_of_draws(evaluate, n_given), "n_draws": n_given}
            return {name: values.cpu() for name, values in result.items()}

        parts = self._by_chunk(score, X, n_draws, proposals)
        scores = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        jacobian = self.standardizer.row_log_jacobians(X).astype(X.dtype)
        return {**scores, "log_likelihood": scores["log_likelihood"] + jacobian}

    def scored_rows(self, X: np.ndarray) -> np.ndarray:
        """The rows that are scored: for probabilities, the binary rows drawn from them."""
        x = self.standardizer.tensor(X, self.device, self.dtype)
        drawn = self.model.likelihood.scored_rows(x, make_generator(self.seed))
        return np.where((drawn == x).cpu().numpy(), X, self.standardizer.rows(drawn))

    def in_parts(
        self,
        X: np.ndarray,
        function: Callable[[EncodedRows, Noise, int], Tensor],
        n_draws: int,
        *,
        in_order: bool = False,
    ) -> np.ndarray:
        """Concatenate the results of a function of rows and the cached draws of a score.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
        function : callable (rows, noise, draws_at_once) -> Tensor of shape (rows, ...)
        n_draws : int
        in_order : bool, default=False
            Whether the function must be called for one chunk after the other.
        """
        n_draws = int(n_draws)
        proposals = self._proposals(METHODS["importance"], [n_draws], None)

        def compute(rows: EncodedRows, draws_at_once: int) -> np.ndarray:
            return function(rows, proposals[0][n_draws], draws_at_once).cpu().numpy()

        return np.concatenate(self._by_chunk(compute, X, n_draws, proposals, in_order=in_order))

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
        n_done = 0

        def bounds(rows: EncodedRows, draws_at_once: int) -> np.ndarray:
            nonlocal n_done
            start, n_done = n_done, n_done + len(rows.x)
            z = torch.from_numpy(Z[start:n_done]).to(rows.x)
            pair = two_sided(self.model, rows, proposals[0][n_draws], draws_at_once, z, generator)
            return np.stack([values.cpu().numpy() for values in pair])

        parts = self._by_chunk(bounds, X, n_draws, proposals, in_order=True)
        lower, upper = np.concatenate(parts, axis=1) - self.log_partition + jacobian
        return lower, upper

    def _by_chunk(
        self,
        function: Callable[[EncodedRows, int], PartT],
        X: np.ndarray,
        n_draws: int,
        proposals: Proposals,
        *,
        in_order: bool = False,
    ) -> list[PartT]:
        """Results of a function (rows, draws_at_once) for chunks within the memory budget."""
        at_once = 1 if in_order else n_threads(self.device)
        rows_at_once, draws_at_once = chunk_sizes(
            len(X), n_draws, self.width, self.dtype.itemsize, memory_budget() // at_once
        )
        rows_at_once = balanced(len(X), rows_at_once, at_once)

        def compute(part: slice) -> PartT:
            x = self.standardizer.tensor(X[part], self.device, self.dtype)
            return function(self._encoded(x, proposals, draws_at_once), draws_at_once)

        parts = list(row_slices(len(X), rows_at_once))
        if at_once > 1 and len(parts) > 1:
            return in_threads(compute, parts, at_once)
        small = is_small(self.model, rows_at_once * n_draws, SMALL_SCORE)
        with one_thread(small and self.device.type == "cpu"):
            return [compute(part) for part in parts]

    @torch.no_grad()
    def _encoded(self, x: Tensor, proposals: Proposals, draws_at_once: int) -> EncodedRows:
        """Encode rows, and fit their proposals."""
        noise, directions = proposals
        x = self.model.likelihood.scored_rows(x, make_generator(self.seed))
        outputs = self.model.encoder(x)
        gaussians = None
        if any(len(n.refined) for n in noise.values()):
            gaussians = refine(self.model, self.guide.energy, x, outputs, directions, draws_at_once)
        return EncodedRows(x, outputs, gaussians)

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
