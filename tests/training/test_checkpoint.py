"""A training that was cut off goes on from its file as if it had not been."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.training import checkpoint

X = load_iris().data


class Cut(BaseException):
    """What stops a process; unlike KeyboardInterrupt, nothing of ours handles it."""


class CutAt:
    """A progress callback's stand-in: raises when printing the epoch line number `epoch`."""

    def __init__(self, epoch):
        self.epoch = epoch

    def __call__(self, line):
        if f"epoch {self.epoch} " in line:
            raise Cut


def dropout_network(n_inputs, n_outputs, hidden_layer_sizes):
    """A user's network that draws from torch's global generator."""
    return torch.nn.Sequential(
        torch.nn.Linear(n_inputs, 8),
        torch.nn.Dropout(0.2),
        torch.nn.SiLU(),
        torch.nn.Linear(8, n_outputs),
    )


@pytest.fixture(autouse=True)
def save_each_epoch(monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0.0)


def cut_off(estimator, epoch, monkeypatch):
    """Fit until `epoch` ends, then die."""
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", CutAt(epoch))
        with pytest.raises(Cut):
            clone(estimator).set_params(verbose=1).fit(X)


def assert_same(one, other):
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))
    assert one.history_.keys() == other.history_.keys()
    for name, values in one.history_.items():
        np.testing.assert_array_equal(values, other.history_[name])


VAES = {
    "exact": {},
    "persistent": {"partition": "persistent"},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 12},
    "falling rate": {"early_stopping": True, "n_iter_no_change": 2, "tol": 5.0},
    "dropout": {"network": dropout_network},
}


@pytest.mark.parametrize("options", VAES.values(), ids=VAES)
def test_vae_goes_on(options, tmp_path, monkeypatch):
    kwargs = {"n_components": 2, "hidden_layer_sizes": 8, "max_iter": 6, "early_stopping": False}
    vae = EnergyVAE(**{**kwargs, **options}, n_score_draws=20, batch_size=64, random_state=0)
    whole = clone(vae).fit(X)
    vae.set_params(checkpoint_dir=tmp_path)
    cut_off(vae, 4, monkeypatch)
    assert_same(clone(vae).fit(X), whole)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("partition", ["exact", "persistent", "contrastive-from-noise"])
def test_rbm_goes_on(partition, tmp_path, monkeypatch):
    rbm = GaussianBernoulliRBMPrior(4, partition=partition, max_iter=6, random_state=0)
    whole = clone(rbm).fit(X)
    rbm.set_params(checkpoint_dir=tmp_path)
    cut_off(rbm, 3, monkeypatch)
    assert_same(clone(rbm).fit(X), whole)


def test_unseeded_run_keeps_its_seed(tmp_path, monkeypatch):
    rbm = GaussianBernoulliRBMPrior(3, max_iter=5, checkpoint_dir=tmp_path)
    cut_off(rbm, 3, monkeypatch)
    one = clone(rbm).fit(X)
    assert_same(clone(rbm).fit(X), one)
    assert len(list(tmp_path.iterdir())) == 1


def test_finished_run_is_not_run_again(tmp_path, monkeypatch):
    rbm = GaussianBernoulliRBMPrior(3, max_iter=4, random_state=0, checkpoint_dir=tmp_path)
    first = clone(rbm).fit(X)
    lines = []
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", lines.append)
        second = clone(rbm).set_params(verbose=1).fit(X)
    assert lines == []
    assert_same(first, second)


def test_what_follows_a_training_finds_it_done(tmp_path):
    vae = EnergyVAE(2, hidden_layer_sizes=8, max_iter=2, n_score_draws=20, random_state=0)
    mended = clone(vae).set_params(ex_post=GaussianMixture(2))
    alone = clone(mended).fit(X)
    clone(vae).set_params(checkpoint_dir=tmp_path).fit(X)
    assert_same(clone(mended).set_params(checkpoint_dir=tmp_path).fit(X), alone)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_parameters_or_rows_are_another_run(tmp_path):
    rbm = GaussianBernoulliRBMPrior(3, max_iter=2, random_state=0, checkpoint_dir=tmp_path)
    runs = [
        (rbm, X),
        (clone(rbm).set_params(learning_rate=0.02), X),
        (clone(rbm).set_params(random_state=1), X),
        (rbm, X[:-1]),
    ]
    for estimator, rows in runs:
        assert_same(
            clone(estimator).fit(rows), clone(estimator).set_params(checkpoint_dir=None).fit(rows)
        )
    assert len(list(tmp_path.iterdir())) == len(runs)


def test_search_shares_a_directory(tmp_path):
    vae = EnergyVAE(
        2, hidden_layer_sizes=8, max_iter=2, prior=GaussianBernoulliRBMPrior(), n_score_draws=20
    ).set_params(random_state=0, checkpoint_dir=tmp_path)
    search = GridSearchCV(vae, {"prior__n_components": [2, 3]}, cv=2, refit=False).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(list(tmp_path.iterdir())) == 4


def test_warm_start_and_partial_fit_leave_files_alone(tmp_path):
    rbm = GaussianBernoulliRBMPrior(3, max_iter=2, random_state=0, checkpoint_dir=tmp_path)
    rbm.set_params(warm_start=True).fit(X).fit(X).partial_fit(X)
    assert rbm.n_iter_ == 5
    assert len(list(tmp_path.iterdir())) == 1


def test_files_are_not_written_at_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 1e9)
    rbm = GaussianBernoulliRBMPrior(3, max_iter=4, random_state=0, checkpoint_dir=tmp_path)
    cut_off(rbm, 3, monkeypatch)
    assert list(tmp_path.iterdir()) == []
    rbm.fit(X)
    assert len(list(tmp_path.iterdir())) == 1


def test_broken_file_is_named(tmp_path):
    rbm = GaussianBernoulliRBMPrior(3, max_iter=2, random_state=0, checkpoint_dir=tmp_path).fit(X)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=f"{path.name}.*Delete it"):
        rbm.fit(X)


def test_directory_that_cannot_be(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(OSError, match="checkpoint_dir=.*file.*Name another"):
        GaussianBernoulliRBMPrior(3, checkpoint_dir=path).fit(X)


def test_what_cannot_be_hashed_is_refused(tmp_path):
    vae = EnergyVAE(2, network=lambda i, o, h: torch.nn.Linear(i, o), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="checkpoint_dir needs parameters that can be pickled"):
        vae.fit(X)
