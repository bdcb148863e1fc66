"""What the estimators share: parameters, checking X, running the loop, scoring."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from skevae.estimators.callbacks import EpochCallbacks
from skevae.estimators.standardizer import Standardizer
from skevae.partitions.base import PartitionEstimate
from skevae.training.checkpoint import TrainingFile, fingerprint
from skevae.training.loop import Run, minimize
from skevae.training.parameters import ParameterVector
from skevae.training.step import Loss, Record
from skevae.utils.device import ModuleT, copy_to
from skevae.utils.random import draw_seed, make_generator, spawn

TORCH_DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


TRAINING_CONSTRAINTS: dict[str, list[Any]] = {
    "standardize": ["boolean"],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
    "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    "tol": [Interval(Real, 0, None, closed="left")],
    "averaging": [Interval(Real, 0, 1, closed="left")],
    "warm_start": ["boolean"],
    "checkpoint_dir": [str, os.PathLike, None],
    "device": [str, torch.device],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


# Parameters that do not change what a training arrives at.
NOT_OF_THE_RUN = {
    "checkpoint_dir",
    "cuda_graph",
    "device",
    "ex_post",
    "n_score_draws",
    "score_tol",
    "verbose",
    "warm_start",
}


# Terms of the history that are log-densities of x, which change with its scale.
DENSITIES_OF_X = {"objective", "reconstruction", "validation"}


# Gradients of larger norm are scaled down: one odd minibatch must not throw a run off.
MAX_GRADIENT_NORM = 10.0


def trainable(module: nn.Module) -> list[Tensor]:
    """Return the parameters that learn."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def kept(module: ModuleT) -> ModuleT:
    """Copy a module in training to the CPU, for keeping."""
    return copy_to(module, "cpu", torch.float32).eval()


def layer_sizes(sizes: Any) -> list[int]:
    """Widths of hidden layers, from the parameter ``hidden_layer_sizes``: a number or several."""
    widths = [sizes] if isinstance(sizes, Integral) else list(sizes)
    if not all(isinstance(width, Integral) and int(width) >= 1 for width in widths):
        raise ValueError(f"hidden_layer_sizes must hold integers of at least 1, got {sizes!r}.")
    return [int(width) for width in widths]


class TorchDensityEstimator(DensityMixin, BaseEstimator):
    """Base of the estimators: a density over the rows of X, held by a torch module."""

    # Set by the constructors of those that train.
    standardize: bool
    learning_rate: float
    batch_size: int | Literal["auto"]
    max_iter: int
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    averaging: float
    checkpoint_dir: str | os.PathLike[str] | None
    device: str | torch.device
    random_state: int | np.random.RandomState | None
    verbose: int
    history_: dict[str, np.ndarray]
    _standardizer: Standardizer

    def _set_fitted(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)

    # --- X ------------------------------------------------------------------------------------

    def _check_rows(self, X: Any, *, reset: bool = False, min_samples: int = 1) -> np.ndarray:
        """Validate X as float32 or float64; other numbers become float64."""
        return validate_data(
            self, X, dtype=[np.float64, np.float32], reset=reset, ensure_min_samples=min_samples
        )

    def _finite_rows(
        self, X: np.ndarray, standardizer: Standardizer, device: torch.device
    ) -> Tensor:
        """Rows to train on, in float32, which reaches less far than float64."""
        rows = standardizer.tensor(X, device, torch.float32)
        if not rows.isfinite().all():
            raise ValueError(
                f"X has values as large as {np.abs(X).max():g}, beyond the range of float32 in "
                "which training computes. Scale X down, or use standardize=True."
            )
        return rows

    # --- fitting ------------------------------------------------------------------------------

    def _open_checkpoint(self, X: np.ndarray, device: torch.device) -> TrainingFile | None:
        """Find the file of this very fit: same parameters, same X."""
        if self.checkpoint_dir is None:
            return None
        params = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in NOT_OF_THE_RUN
        }
        # The states of generators differ from one type of device to another.
        name = fingerprint(type(self).__name__, device.type, params, X)
        return TrainingFile(self.checkpoint_dir, name, device)

    def _seeds_of_fit(self, checkpoint: TrainingFile | None, n_streams: int) -> list[int]:
        """Independent seeds from ``random_state``; those of the run that goes on, if one does."""
        seed = draw_seed(self.random_state)
        return spawn(seed if checkpoint is None else checkpoint.seed(seed), n_streams)

    def _split(self, X: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
        """Shuffle once and hold rows out, if early stopping wants some: (training, held out)."""
        if not self.early_stopping:
            return X, None
        n_held_out = max(1, round(self.validation_fraction * X.shape[0]))
        if n_held_out >= X.shape[0]:
            raise ValueError(
                f"validation_fraction={self.validation_fraction!r} of {X.shape[0]} rows leaves "
                "none to train on. Use a smaller fraction or early_stopping=False."
            )
        order = torch.randperm(X.shape[0], generator=make_generator(seed)).to(X.device)
        X = X[order]
        return X[n_held_out:], X[:n_held_out]

    def _resolve_batch_size(self, n_rows: int) -> int:
        """Few rows need small batches, or an epoch has no steps; many need no larger than 256."""
        if self.batch_size == "auto":
            return min(256, max(16, n_rows // 32))
        return self.batch_size

    def _run(
        self,
        loss: Loss,
        weights: ParameterVector,
        X: Tensor,
        *,
        optimizer: torch.optim.Optimizer,
        seed: int,
        max_epochs: int,
        batch_size: int,
        validate: Callable[[], float] | None = None,
        grace: float = 0.0,
        log_jacobian: float,
        on_epoch_begin: Callable[[], None],
        callbacks: EpochCallbacks | None = None,
        checkpoint: TrainingFile | None = None,
        max_drops: int = 0,
        record: Record | None = None,
    ) -> Run:
        """Run the loop, print an epoch line if asked, and warn if it did not go well.

        Log-densities of x are told on the scale of X: ``log_jacobian`` is added to them.
        """
        shift = dict.fromkeys(DENSITIES_OF_X, log_jacobian)

        def begin() -> None:
            on_epoch_begin()
            if callbacks is not None:
                callbacks.begin()

        def on_epoch_end(epoch: int, record: dict[str, float]) -> bool:
            record = {name: value + shift.get(name, 0.0) for name, value in record.items()}
            if self.verbose:
                terms = "  ".join(f"{name} {value:.4f}" for name, value in record.items())
                print(f"[{type(self).__name__}] epoch {epoch}  {terms}")
            return callbacks is not None and callbacks.end()

        @torch.no_grad()
        def first_batch() -> float:
            # At full progress, where the loss is what it will be when training ends.
            return loss(X[:batch_size], 1.0)[1]["objective"].item()

        run = minimize(
            loss,
            weights,
            X,
            generator=make_generator(seed, X.device),
            optimizer=optimizer,
            batch_size=batch_size,
            max_epochs=max_epochs,
            max_norm=MAX_GRADIENT_NORM,
            averaging=self.averaging,
            validate=validate,
            grace=grace,
            patience=self.n_iter_no_change,
            tol=self.tol,
            max_drops=max_drops,
            check=first_batch if validate is None else validate,
            on_epoch_begin=begin,
            on_epoch_end=on_epoch_end,
            checkpoint=checkpoint,
            record=record,
        )
        self._warn_about(run)
        run.history = {
            name: [value + shift.get(name, 0.0) for value in values]
            for name, values in run.history.items()
        }
        return run

    def _warn_about(self, run: Run) -> None:
        kept_state = f"the state of epoch {run.best_epoch} was kept"
        if run.best_epoch == 0:
            kept_state = "the state at the start was kept"
        messages = {
            "diverged": (
                f"{type(self).__name__} diverged: the objective fell apart after epoch "
                f"{len(run.history.get('objective', []))}; {kept_state}. Try a smaller "
                f"learning_rate than {self.learning_rate}, or look for extreme values in X.",
                ConvergenceWarning,
            ),
            "interrupted": (f"Training was interrupted; {kept_state}.", UserWarning),
        }
        if run.status in messages:
            warnings.warn(*messages[run.status], stacklevel=5)

    def _extended_history(self, run: Run, keep: bool) -> dict[str, np.ndarray]:
        """Append a run to `history_`."""
        old = self.history_ if keep else {}
        new = {name: np.asarray(values) for name, values in run.history.items()}
        n_old, n_new = len(old.get("objective", ())), len(new.get("objective", ()))
        # One entry an epoch: nan where an epoch had no such term.
        return {
            name: np.concatenate(
                [old.get(name, np.full(n_old, np.nan)), new.get(name, np.full(n_new, np.nan))]
            )
            for name in {**old, **new}
        }

    # --- calls on the fitted model ----------------------------------------------------------------

    def score(self, X, y=None):
        """Mean log-likelihood of the rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            For API consistency.

        Returns
        -------
        float
            Mean of `score_samples`, in nats, on the scale of X.
        """
        return float(np.mean(self.score_samples(X)))

    def _seed_for(self, random_state: int | np.random.RandomState | None) -> int:
        """Seed of a call: from its own random_state, else from the estimator's."""
        state = self.random_state if random_state is None else random_state
        validate_parameter_constraints(
            {"random_state": ["random_state"]},
            {"random_state": state},
            caller_name=type(self).__name__,
        )
        return draw_seed(state)

    def _check_n_samples(self, n_samples: int) -> int:
        validate_parameter_constraints(
            {"n_samples": [Interval(Integral, 1, None, closed="left")]},
            {"n_samples": n_samples},
            caller_name=f"{type(self).__name__}.sample",
        )
        return int(n_samples)

    def _check_latent(self, Z: Any, n_columns: int, name: str) -> np.ndarray:
        """Validate an array that is not X: latents or hidden units."""
        Z = check_array(Z, dtype=[np.float64, np.float32], input_name=name)
        if Z.shape[1] != n_columns:
            raise ValueError(
                f"{name} has {Z.shape[1]} columns, but {type(self).__name__} has {n_columns} "
                "of them. Pass what transform or sample of the same model returned."
            )
        return Z


class TrainingState:
    """What `partial_fit` carries from one call to the next, besides the parameters; on the CPU.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    partition : PartitionEstimate
    """

    def __init__(self, optimizer: torch.optim.Optimizer, partition: PartitionEstimate) -> None:
        self.moments = {
            index: {name: value.cpu() for name, value in entry.items()}
            for index, entry in optimizer.state_dict()["state"].items()
        }
        self.partition = partition.state()

    @staticmethod
    def resume(
        estimator: Any, optimizer: torch.optim.Optimizer, partition: PartitionEstimate
    ) -> None:
        """Give a new optimizer and estimate the state that the estimator kept, if it has any."""
        state: TrainingState | None = getattr(estimator, "_training_state", None)
        if state is None:
            return
        # The learning rate is the estimator's present one.
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state.moments, "param_groups": groups})
        partition.resume(state.partition)
