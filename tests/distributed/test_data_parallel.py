"""Processes with a part of the rows each train the model of one process with all of them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rank_processes import on_ranks, returned
from sklearn.mixture import GaussianMixture

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, GaussianMixturePrior, VampPrior
from skevae.densities.gaussian_bernoulli import SHARED_UNITS
from skevae.distributed import data_parallel
from skevae.estimators import fit as fit_module
from skevae.estimators.callbacks import EpochCallbacks
from skevae.training import checkpoint

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "n_draws": 2, "random_state": 0}


def rows_of(n_rows, n_columns=3, seed=0):
    source = np.random.RandomState(seed)
    return source.randn(n_rows, n_columns) @ source.randn(n_columns, n_columns) + 5


def state_of(model):
    module = getattr(model, "module_", None) or model.density_
    tensors = {name: value.numpy() for name, value in module.state_dict().items()}
    standardizer = {f"s.{k}": np.asarray(v) for k, v in vars(model._standardizer).items()}
    return {**tensors, **model.history_, **standardizer}


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], err_msg=name, **tolerance)


EXACTLY = {"rtol": 0, "atol": 0}


def fitted(rank, model, X, cuts, **arguments):
    """Fit a model to the rows between two cuts."""
    part = slice(*cuts[rank : rank + 2])
    own = {name: value[part] for name, value in arguments.items()}
    with data_parallel() as ranks:
        assert (ranks.rank, ranks.size) == (rank, len(cuts) - 1)
        model.fit(X[part], **own)
    return state_of(model), model.score(X[:50])


# --- one model ------------------------------------------------------------------------------------


def mixed_table():
    """Categories, holes and fractions of which each half of the rows lacks some."""
    source = np.random.RandomState(0)
    return pd.DataFrame(
        {
            "number": source.randn(80),
            "holes in the second half": [*range(60), *[np.nan] * 2, *range(18)],
            "city": [*["Rome", "Oslo"] * 30, *["Bern", "Oslo"] * 10],
            "count": [*source.randint(0, 9, 60), *source.randint(5, 20, 20)],
        }
    )


def test_unequal_parts_of_a_table_train_one_model():
    table = mixed_table()
    vae = EnergyVAE(**SMALL, max_iter=2, batch_size=16)
    (one, score), (other, other_score) = returned(on_ranks(fitted, vae, table, (0, 60, 80)))
    assert_same(one, other, **EXACTLY)
    assert score == other_score
    alone = state_of(vae.fit(table))
    assert one.keys() == alone.keys()
    for name in ("s.centre", "s.spread", "s.fill", "s.log_spread"):
        np.testing.assert_allclose(one[name], alone[name], rtol=1e-12, err_msg=name)


def test_one_process_in_the_context_makes_the_fit_of_none(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "0")
    X = rows_of(60)
    vae = EnergyVAE(**SMALL, max_iter=2, prior=GaussianBernoulliRBMPrior(4, partition="persistent"))
    alone = state_of(vae.fit(X))
    with data_parallel() as ranks:
        vae.fit(X)
    assert (ranks.rank, ranks.size) == (0, 1)
    assert not torch.distributed.is_initialized()
    assert_same(state_of(vae), alone, **EXACTLY)


def test_without_processes_it_says_how_to_start_them(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="RANK, WORLD_SIZE, .*torchrun"), data_parallel():
        pass
    with pytest.raises(ValueError, match="timeout must be .* above 0, got 0"):
        data_parallel(timeout=0).__enter__()


@pytest.mark.slow
@pytest.mark.parametrize(
    "cuts, weighted, n_units",
    [
        ((0, 100, 200), False, 4),
        ((0, 3, 120, 200), True, 4),
        # ln Z and its gradient are divided among the ranks, too.
        ((0, 70, 130, 200), False, SHARED_UNITS),
    ],
)
def test_without_noise_it_is_the_fit_of_one_process(cuts, weighted, n_units):
    # The loss of an RBM with an exact ln Z draws nothing: where each step sees all training rows,
    # gradients of parts have to sum to that of the whole, early stopping included.
    X = rows_of(200)
    prior = GaussianBernoulliRBMPrior(
        n_units, batch_size=200, max_iter=15, learning_rate=0.05, partition="exact", random_state=0
    )
    weights = {"sample_weight": np.random.RandomState(1).rand(200)} if weighted else {}
    found = returned(on_ranks(work_of_prior, prior, X, cuts, weights, size=len(cuts) - 1))
    for state in found[1:]:
        assert_same(state, found[0], **EXACTLY)
    assert_same(found[0], state_of(prior.fit(X, **weights)), rtol=2e-4, atol=2e-4)


def work_of_prior(rank, prior, X, cuts, weights):
    return fitted(rank, prior, X, cuts, **weights)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"prior": "normal"},
        {"prior": GaussianBernoulliRBMPrior(6), "partition": "persistent"},
    ],
    ids=lambda settings: str(settings["prior"])[:10],
)
def test_it_is_as_good_as_the_fit_of_one_process(settings):
    X, fresh = rows_of(1000), rows_of(2000)[1000:]
    model = EnergyVAE(
        **{**SMALL, **settings}, max_iter=25, batch_size=50, learning_rate=0.01, n_score_draws=100
    )
    two, other = returned(on_ranks(scores_after, model, X, fresh))
    np.testing.assert_array_equal(two, other)
    one = model.fit(X).score_samples(fresh)
    error = np.std(one) / np.sqrt(len(fresh))
    assert abs(np.mean(two) - np.mean(one)) < 2 * error


def scores_after(rank, model, X, fresh):
    with data_parallel() as ranks:
        model.fit(np.array_split(X, ranks.size)[rank])
    return model.score_samples(fresh)


def several_members(rank):
    """Fit models that decide something from the rows, from weights, or after the training."""
    X, weights = rows_of(90), np.random.RandomState(0).rand(90)
    cuts, states = (0, 50, 90), []
    for settings in (
        {"ex_post": GaussianMixture(2)},
        {"prior": VampPrior(4), "objective": "elbo", "early_stopping": False},
        {"prior": GaussianMixturePrior(3), "bounds": {0: (-30, None)}},
        {"likelihood": "bernoulli", "standardize": False},
        {"network": with_running_statistics},
    ):
        model = EnergyVAE(**SMALL, max_iter=2, batch_size=27).set_params(**settings)
        rows = (X > 5) * 1.0 if "likelihood" in settings else X
        states.append(fitted(rank, model, rows, cuts, sample_weight=weights))
        with data_parallel():
            model.partial_fit(rows[cuts[rank] : cuts[rank + 1]])
        states.append((state_of(model), model.sample(3).sum()))
    return states


def with_running_statistics(n_inputs, n_outputs, sizes):
    linear = torch.nn.Linear(n_inputs, n_outputs)
    # The decoder is shown several draws of each row.
    return linear if n_inputs == 2 else torch.nn.Sequential(torch.nn.BatchNorm1d(n_inputs), linear)


@pytest.mark.slow
def test_all_members_end_equal_on_all_ranks():
    for (one, number), (other, other_number) in zip(
        *returned(on_ranks(several_members)), strict=True
    ):
        assert_same(one, other, **EXACTLY)
        assert number == other_number


# --- errors and ends ------------------------------------------------------------------------------


def failing(rank, case):
    X, vae = rows_of(40), EnergyVAE(**SMALL, max_iter=2, likelihood="bernoulli")
    if case == "width" and rank:
        X = X[:, :2]
    if case == "value":
        X = X * rank / 100  # on rank 1 below 0 in places, on rank 0 never
        X[0] = -1.0 * rank
    if case == "parameter":
        vae.set_params(n_draws=1 + rank)
    if case == "weights":
        with data_parallel():
            vae.fit(X, sample_weight=np.ones(40) if rank else None)
    begin = time.monotonic()
    try:
        with data_parallel():
            vae.fit(X)
    except Exception as error:
        return type(error).__name__, str(error), time.monotonic() - begin
    return None


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, message",
    [
        ("width", "columns of X: rank 0 has 3, rank 1 has 2"),
        ("value", "needs X in "),
        ("parameter", "'n_draws': 1.*'n_draws': 2"),
        ("weights", "kind of fit.*False.*True"),
    ],
)
def test_an_error_on_one_rank_is_raised_on_all(case, message):
    for outcome in on_ranks(failing, case):
        if isinstance(outcome, BaseException):
            outcome = type(outcome).__name__, str(outcome), 0.0
        kind, text, seconds = outcome
        assert kind == "ValueError" and seconds < 20
        assert re.search(message, text), text


class Ends(Exception):
    pass


def ending(rank, how, folder, epoch):
    """Fit with checkpoints; rank 1 comes to its end at an epoch."""
    checkpoint.SECONDS_BETWEEN_SAVES = 0.0
    model = EnergyVAE(**SMALL, max_iter=8, batch_size=20, checkpoint_dir=folder)
    model.set_params(prior=GaussianBernoulliRBMPrior(5), partition="persistent")
    begun, begin = [], EpochCallbacks.begin

    def noting(self):
        begun.append(1)
        if rank == 1 and len(begun) == epoch:
            if how == "raises":
                raise Ends("a callback's own error")
            os.kill(os.getpid(), how)
        begin(self)

    EpochCallbacks.begin = noting
    X = rows_of(100)
    began = time.monotonic()
    try:
        with data_parallel(timeout=20):
            model.fit(np.array_split(X, 2)[rank])
    except (Exception, KeyboardInterrupt) as error:
        states = state_of(model) if hasattr(model, "module_") else None
        return type(error).__name__, str(error), time.monotonic() - began, states
    return "", "", len(begun), state_of(model)


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_and_any_number_goes_on(tmp_path, monkeypatch):
    uncut, _ = returned(on_ranks(ending, "no end", None, 99))
    (kind, message, seconds, _), killed = on_ranks(ending, signal.SIGKILL, tmp_path, 5)
    assert killed is None
    assert kind == "LostRanksError" and seconds < 40
    assert "Rank 0 of 2 lost the others while" in message and "checkpoint_dir" in message
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()

    # As many ranks go on to the same result ...
    for _, _, n_epochs, state in returned(on_ranks(ending, "no end", tmp_path, 99)):
        assert n_epochs == 4
        assert_same(state, uncut[3], **EXACTLY)

    # ... and one goes on, with all chains.
    file.write_bytes(content)
    begun = []
    monkeypatch.setattr(EpochCallbacks, "begin", begun_by(begun, EpochCallbacks.begin))
    model = EnergyVAE(**SMALL, max_iter=8, batch_size=20, checkpoint_dir=tmp_path)
    model.set_params(prior=GaussianBernoulliRBMPrior(5), partition="persistent").fit(rows_of(100))
    assert len(begun) == 4 and model.n_iter_ == 8
    (saved,) = checkpoint.read_archive(file, checkpoint.KIND)["ranks"]
    assert len(saved["partition"]["chains"]) == model.module_.density.n_chains
    for name, values in model.history_.items():
        np.testing.assert_allclose(values[:4], uncut[3][name][:4], rtol=1e-12)


def begun_by(begun, begin):
    def noting(self):
        begun.append(1)
        begin(self)

    return noting


@pytest.mark.slow
def test_an_error_within_training_names_its_rank():
    (kind, message, seconds, _), (other, *_) = on_ranks(ending, "raises", None, 3)
    assert (kind, other) == ("LostRanksError", "Ends")
    assert "Rank 1 has failed: a callback's own error" in message and seconds < 20


@pytest.mark.slow
def test_an_interruption_of_one_rank_is_one_of_all():
    one, other = on_ranks(ending, signal.SIGINT, None, 3)
    assert one[0] == other[0] == "KeyboardInterrupt"
    assert_same(one[3], other[3], **EXACTLY)
    assert len(one[3]["objective"]) == 2


def out_of_time(rank):
    model = EnergyVAE(**SMALL, max_iter=10**6, kl_warmup=0.0, early_stopping=False)
    model.set_params(max_time=1 + 100 * rank)
    with data_parallel():
        model.fit(rows_of(60))
    return state_of(model)


def late(rank):
    began = time.monotonic()
    try:
        with data_parallel(timeout=2):
            time.sleep(6 * rank)
            EnergyVAE(**SMALL, max_iter=1).fit(rows_of(40))
    except RuntimeError as error:
        return str(error), time.monotonic() - began
    return None


@pytest.mark.slow
def test_a_rank_that_does_not_answer_in_time_is_given_up():
    for message, seconds in returned(on_ranks(late)):
        assert "lost the others" in message and seconds < 20


@pytest.mark.slow
def test_the_first_to_be_out_of_time_stops_all():
    one, other = returned(on_ranks(out_of_time))
    assert_same(one, other, **EXACTLY)


SCRIPT = """
import numpy as np
from skevae import EnergyVAE
from skevae.densities.gaussian_bernoulli import SHARED_UNITS
from skevae.distributed import data_parallel
X = np.random.RandomState(0).randn(60, 2)
with data_parallel() as ranks:
    vae = EnergyVAE(2, hidden_layer_sizes=(8,), max_iter=2, random_state=0)
    vae.fit(np.array_split(X, ranks.size)[ranks.rank])
print("score", ranks.size, vae.score(X))
"""


@pytest.mark.slow
def test_torchrun(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    root = str(Path(fit_module.__file__).parents[2])
    run = subprocess.run(
        [*command, "--nproc-per-node", "2", str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=100,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("score")]
    assert len(lines) == 2 and len({*lines}) == 1 and lines[0].startswith("score 2"), run.stderr
