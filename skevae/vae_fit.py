"""The fit of an `EnergyVAE`: building the model, its loss, and its validation."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from skevae.densities.ex_post import check_can_sample, fit_density
from skevae.estimators.base import is_positive_integer, kept, layer_sizes
from skevae.estimators.fit import Fit, Model
from skevae.estimators.ignored import warn_of_ignored_parameters
from skevae.estimators.jacobian import mean_log_jacobian
from skevae.estimators.rows import Rows
from skevae.estimators.standardizer import Standardizer
from skevae.evaluation.aggregate import aggregated_draws, aggregated_moments
from skevae.evaluation.chunks import chunk_sizes
from skevae.evaluation.importance import held_out_bound
from skevae.likelihoods import LIKELIHOODS
from skevae.likelihoods.base import Likelihood, LikelihoodFamily
from skevae.likelihoods.mixed import make_table_likelihood
from skevae.likelihoods.observed import Observed
from skevae.likelihoods.seen import SeenValues, few_values, values_seen
from skevae.networks.build import build_network
from skevae.networks.inputs import Inputs, TableEncoder
from skevae.networks.precision import PRECISIONS
from skevae.partitions import PARTITIONS, resolve_partition
from skevae.partitions.base import PartitionEstimate
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.scoring import model_width
from skevae.training import OBJECTIVES
from skevae.training.loss import TrainingLoss
from skevae.training.step import Loss, RecordedStep, Step
from skevae.utils.device import graph_recorder
from skevae.utils.memory import has_holes, memory_budget, n_present
from skevae.utils.random import MAX_DIMENSIONS, make_generator, spawn
from skevae.utils.weights import by_weight, unpacked
from skevae.vae import VAE, accepting_holes

# An ex-post density is fitted to at least this many draws, with equally many draws per row: with
# fewer, it overfits the noise of the draws. For many rows, one draw per row is enough.
EX_POST_DRAWS = 1000


class Seeds(NamedTuple):
    """Independent seeds of one fit, named by their use."""

    initialise: int
    split: int
    draws: int
    validate: int
    order: int
    globals: int
    ex_post: int
    attach: int


class Decided(NamedTuple):
    """Choices that a fit makes once, for all later calls."""

    prior: Any  # unfitted
    partition_seed: int
    score_seed: int


class VAEFit(Fit):
    """One fit of an `EnergyVAE`."""

    averaging = 0.997
    max_drops = 1

    module: VAE

    def run(self) -> None:
        if not self.mode.continues:
            warn_of_ignored_parameters(self.estimator.prior)
        super().run()

    def make_seeds(self, seed: int) -> Seeds:
        return Seeds(*spawn(seed, len(Seeds._fields)))

    # --- building the model --------------------------------------------------------------------

    def start(self) -> Model:
        self.ex_post = self._unfitted_ex_post()
        prior_seed, partition_seed, score_seed, construction, density = spawn(
            self.seeds.initialise, 5
        )
        self.decided = Decided(self._prior(prior_seed), partition_seed, score_seed)
        n_components = self.estimator.n_components
        if not is_positive_integer(n_components) or n_components > MAX_DIMENSIONS:
            raise ValueError(
                f"n_components must be an integer from 1 to {MAX_DIMENSIONS}, got {n_components!r}."
            )
        family, columns = self._likelihood_family(), self.estimator._columns
        if self.weights is not None:
            self.estimator._check_columns_have_values(
                self.ranks.total(n_present(self.X)), "The part of X with sample_weight above 0"
            )
        numbers, binned = columns.n_categories == 0, columns.integer & family.bins_integers
        scaled = np.full(len(numbers), self.estimator.standardize) & numbers
        if not family.make_likelihood(1).standardizes:
            scaled &= binned
        standardizer = Standardizer(
            self.X,
            scaled,
            continuous=numbers & ~binned,
            sample_weight=self.weights,
            ranks=self.ranks,
        )
        half_units = np.where(binned, 0.5 / standardizer.spread, np.nan)
        likelihood = make_table_likelihood(
            family, columns.n_categories, half_units, self._few_values(binned, standardizer)
        )
        likelihood.check_rows(self.X)
        module = self._build(likelihood, torch.from_numpy(standardizer.fill), construction, density)
        return Model(module, standardizer)

    def _few_values(
        self, integer: np.ndarray, standardizer: Standardizer
    ) -> list[SeenValues | None]:
        """Values of integer columns with few values, in standardised coordinates."""
        chosen = np.flatnonzero(integer)
        of_ranks = self.ranks.gather([values_seen(self.X[:, j]) for j in chosen])
        found: list[SeenValues | None] = [None] * len(integer)
        for j, parts in zip(chosen, zip(*of_ranks, strict=True), strict=True):
            if (seen := few_values(parts)) is not None:
                values = (seen.values - standardizer.centre[j]) / standardizer.spread[j]
                found[j] = seen._replace(values=values)
        return found

    def resume(self) -> Model:
        self.ex_post = self._unfitted_ex_post()
        self.decided = self.estimator._decided
        module, standardizer = self.estimator.module_, self.estimator._standardizer
        module.likelihood.check_rows(self.X)
        if self.estimator.mask_rate > 0 or self._has_holes():
            module = accepting_holes(module, torch.from_numpy(standardizer.fill))
        return Model(module, standardizer)

    def _likelihood_family(self) -> LikelihoodFamily:
        given = self.estimator.likelihood
        return clone(LIKELIHOODS[given]() if isinstance(given, str) else given)

    def _has_holes(self) -> bool:
        return self.ranks.any(has_holes(self.X))

    def _prior(self, seed: int) -> Any:
        given = self.estimator.prior
        prior = PRIORS[given]() if isinstance(given, str) else given
        return self._following(prior, seed)

    def _following(self, estimator: Any, seed: int) -> Any:
        """Clone an estimator; if its device and seed are not set, use those of this model."""
        estimator = clone(estimator)
        if hasattr(estimator, "_parameter_constraints"):
            estimator._validate_params()
        left_open = {"device": ("auto", self.estimator.device), "random_state": (None, seed)}
        for name, present in estimator.get_params().items():
            kind = name.rpartition("__")[-1]
            if kind in left_open and present == left_open[kind][0]:
                estimator.set_params(**{name: left_open[kind][1]})
        return estimator

    def _unfitted_ex_post(self) -> Any:
        """Return a clone of ``ex_post``, checked before training starts; or None."""
        if self.estimator.ex_post is None:
            return None
        check_can_sample(self.estimator.ex_post)
        return self._following(self.estimator.ex_post, self.seeds.ex_post)

    def _build(self, likelihood: Likelihood, fill: Tensor, construction: int, density: int) -> VAE:
        """Build the untrained module."""
        estimator = self.estimator
        kind, n_latent = POSTERIORS[estimator.posterior], int(estimator.n_components)
        sizes = layer_sizes(estimator.hidden_layer_sizes)
        generator = make_generator(construction)

        def build(
            n_inputs: int, n_outputs: int, widths: list[int], decodes: bool = False
        ) -> torch.nn.Module:
            network = estimator.network
            return build_network(network, n_inputs, n_outputs, widths, generator, decodes=decodes)

        n_categories = estimator._columns.n_categories
        holes = bool(estimator.mask_rate > 0) or self._has_holes()
        inputs = Inputs(fill, n_categories.tolist(), with_mask=holes)
        encoder = build(inputs.n_outputs, kind.outputs_per_latent * n_latent, sizes)
        # Rows of numbers without missing entries are passed to the network unchanged.
        if holes or n_categories.any():
            encoder = TableEncoder(inputs, encoder)
        return VAE(
            encoder=encoder,
            decoder=build(n_latent, likelihood.n_outputs, sizes[::-1], decodes=True),
            posterior=kind(n_latent, generator),
            likelihood=Observed(likelihood) if holes else likelihood,
            density=self.decided.prior.make_density(n_latent, make_generator(density)),
        )

    # --- training ------------------------------------------------------------------------------

    def make_shifts(self, train: Rows, held_out: Tensor | None) -> dict[str, float]:
        jacobian = partial(
            mean_log_jacobian,
            standardizer=self.standardizer,
            bounds=self.estimator._bounds,
            complete=not self._has_holes(),
            weighted=self.weights is not None,
            ranks=self.ranks,
        )
        # The bound of the training rows is that of the entries that are not hidden.
        own = (1 - self.estimator.mask_rate) * jacobian(train)
        shifts = {"objective": own, "reconstruction": own}
        return shifts if held_out is None else {**shifts, "validation": jacobian(held_out)}

    def prepare(self, rows: Tensor) -> None:
        model, encoder = self.module, self.module.encoder
        if isinstance(encoder, TableEncoder):
            rows = encoder.inputs(rows)
            encoder = encoder.network
        model.density.attach(
            encoder,
            model.posterior,
            rows,
            model.likelihood,
            make_generator(self.seeds.attach, self.device),
        )

    def make_partition(self) -> PartitionEstimate:
        prior = self.decided.prior
        choices = [self.estimator.partition, getattr(prior, "partition", "auto")]
        kind = PARTITIONS[resolve_partition(choices, self.module.density)]
        # Checked while the module is in evaluation mode.
        self.width = model_width(self.module, self.X.shape[1])
        return kind(self.module.density, self.draws)

    def make_loss(self) -> Loss:
        self.module.likelihood.prepare(self.X)
        return TrainingLoss(
            self.module,
            self.partition,
            OBJECTIVES[self.estimator.objective],
            n_draws=int(self.estimator.n_draws),
            kl_warmup=self.warmup,
            mask_rate=self.estimator.mask_rate,
            weighted=self.weights is not None,
            generator=self.draws,
            precision=PRECISIONS[self.estimator.precision],
        )

    @property
    def warmup(self) -> float:
        return 0.0 if self.mode.one_pass else self.estimator.kl_warmup

    def make_recorded(self, step: Step) -> RecordedStep | None:
        if not self.estimator.cuda_graph or self.mode.one_pass or self.ranks.size > 1:
            return None
        record = graph_recorder(self.device, [self.draws])
        if record is None:
            return None
        batch_size = self.estimator._resolve_batch_size(self.n_train)
        return RecordedStep(step, record, batch_size, self.warmup)

    def validate(self, held_out: Tensor) -> float:
        density = self.module.density
        log_partition = density.quick_log_partition(
            make_generator(self.seeds.validate, self.device)
        )
        self.partition.note(log_partition)
        rows_at_once, draws_at_once = self._chunk_sizes(int(self.estimator.n_draws))
        x, weight = unpacked(held_out, self.weights is not None)
        return held_out_bound(
            self.module,
            x,
            n_draws=int(self.estimator.n_draws),
            rows_at_once=rows_at_once,
            draws_at_once=draws_at_once,
            seed=self.seeds.validate,
            log_partition=log_partition,
            weight=weight,
        )

    def _chunk_sizes(self, n_draws: int) -> tuple[int, int]:
        return chunk_sizes(len(self.X), n_draws, self.width, 4, memory_budget())

    # --- results -------------------------------------------------------------------------------

    def conclude(self, rows: Rows) -> None:
        rows_at_once, _ = self._chunk_sizes(self.estimator.n_draws)
        own_mean, own_variance = aggregated_moments(self.module, rows, rows_at_once)
        of_rank = own_mean.cpu().numpy(), own_variance.cpu().numpy(), len(rows)
        mean, variance, _ = self.ranks.moments(of_rank)
        self.module.density.set_base(torch.as_tensor(mean), torch.as_tensor(variance))

    def attributes(self) -> dict[str, Any]:
        module = kept(self.module)
        prior = self.decided.prior.with_density(module.density, self.decided.partition_seed)
        return {
            "module_": module,
            "prior_": prior,
            # Until the ex-post density is fitted after training, the prior is used.
            "ex_post_": None,
            "_decided": self.decided,
            "_standardizer": self.standardizer,
            "_cache": {},
        }

    def finish(self, rows: Rows) -> dict[str, Any]:
        if self.ex_post is None:
            prior = self.estimator.prior_
            if hasattr(prior, "normalize") and not self.mode.one_pass:
                # Computed now, so that its cost and its warning are part of fit.
                prior.normalize()
            return {}
        generator = self._own_generator(self.seeds.ex_post)
        if self.weights is not None:
            weights = torch.from_numpy(self.weights).to(rows.device)
            # As many rows as the sum of their weights: in a single process, the number of rows.
            n_rows = round(self.weights.sum())
            rows = rows[by_weight(weights, n_rows, generator)]
        draws = aggregated_draws(
            self.module,
            rows,
            math.ceil(EX_POST_DRAWS / self.shard.total),
            rows_at_once=self._chunk_sizes(self.estimator.n_draws)[0],
            generator=generator,
        )
        parts = self.ranks.gather(draws.cpu())
        fitted = self.ranks.first(lambda: fit_density(self.ex_post, torch.cat(parts), generator))
        return {"ex_post_": fitted, "_cache": {}}
