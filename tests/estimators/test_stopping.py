"""What ends a training before its last epoch: time, the keyboard; and which epoch is then kept."""

import math
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.estimators.fit import Fit
from skevae.training.step import Step

X = load_iris().data
# 135 rows to train on, in 3 minibatches.
COMMON = {"batch_size": 45, "max_iter": 6, "random_state": 0}


def vae(**params):
    defaults = {"n_components": 2, "hidden_layer_sizes": 8, "n_draws": 2, "n_score_draws": 20}
    prior = GaussianBernoulliRBMPrior(4)
    return EnergyVAE(**{**defaults, **COMMON, "prior": prior, "kl_warmup": 0, **params})


def rbm(**params):
    return GaussianBernoulliRBMPrior(4, **{**COMMON, **params})


@pytest.fixture(params=[vae, rbm])
def make(request):
    return request.param


@pytest.fixture
def clock(monkeypatch):
    """Clock that goes on by a second at each training step."""
    now, update = [0.0], Step.update

    def ticking(self, x, progress, share):
        now[0] += 1
        update(self, x, progress, share)

    monkeypatch.setattr("skevae.training.loop.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Step, "update", ticking)
    return now


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("seconds", [1, 3, 4, 7])
def test_training_stops_when_time_is_over(seconds, early_stopping, make, clock):
    model = make(max_time=seconds, early_stopping=early_stopping)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as at max_iter, nothing is warned of
        model.fit(X)
    n_steps = 3 if early_stopping else 4  # of an epoch
    assert clock == [seconds]
    assert model.n_iter_ == math.ceil(seconds / n_steps)
    assert all(len(values) == model.n_iter_ for values in model.history_.values())
    assert np.isfinite(model.score(X))


def test_time_that_suffices_changes_nothing(make, clock):
    assert_array_equal(make(max_time=1000).fit(X).score_samples(X), make().fit(X).score_samples(X))


def test_a_fit_that_ran_out_of_time_is_that_of_fewer_epochs(make, clock):
    # The warm-up of the loss is none, so that max_iter has no other part in it.
    stopped = make(max_time=6).fit(X)
    assert_array_equal(stopped.score_samples(X), make(max_iter=2).fit(X).score_samples(X))


def test_time_that_is_over_in_the_warm_up_is_told(clock):
    model = vae(max_time=4, kl_warmup=0.5)
    with pytest.warns(ConvergenceWarning, match="ran out of time in epoch 2.*Raise max_time=4"):
        model.fit(X)
    assert model.best_n_iter_ == model.n_iter_ == 2 and np.isfinite(model.score(X))


def test_a_checkpointed_fit_goes_on_with_the_time_it_is_given(make, clock, tmp_path):
    whole = make().fit(X)
    model = make(checkpoint_dir=tmp_path, max_time=1)
    for n_epochs in (1, 2, 3):
        assert clone(model).fit(X).n_iter_ == n_epochs
    assert clone(model).set_params(max_time=5).fit(X).n_iter_ == 5
    last = clone(model).set_params(max_time=None).fit(X)
    assert_array_equal(last.score_samples(X), whole.score_samples(X))
    assert_array_equal(last.history_["objective"], whole.history_["objective"])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_pass_is_always_whole(make, clock):
    assert_array_equal(
        make(max_time=1).partial_fit(X).score_samples(X), make().partial_fit(X).score_samples(X)
    )


def test_time_of_a_warm_start_is_its_own(make, clock):
    model = make(max_time=6, warm_start=True).fit(X)
    assert model.n_iter_ == 2
    assert model.fit(X).n_iter_ == 4


@pytest.mark.parametrize("max_time", [0, -1.0, "1", math.nan])
def test_times_that_are_none(max_time, make):
    with pytest.raises(ValueError, match="max_time"):
        make(max_time=max_time).fit(X)


# --- the epoch that was kept ----------------------------------------------------------------------


def test_the_epoch_of_the_best_bound_is_kept(make):
    model = make(max_iter=7, learning_rate=0.2).fit(X)
    assert model.best_n_iter_ == 1 + model.history_["validation"].argmax() < model.n_iter_
    shorter = make(max_iter=model.best_n_iter_, learning_rate=0.2).fit(X)
    assert_array_equal(shorter.score_samples(X), model.score_samples(X))


def test_without_early_stopping_the_last_epoch_is_kept(make):
    model = make(early_stopping=False).fit(X)
    assert model.best_n_iter_ == model.n_iter_ == 6
    assert model.partial_fit(X).best_n_iter_ == 7


def test_epochs_are_counted_on_by_a_warm_start(make):
    model = make(warm_start=True).fit(X)
    model.fit(X)
    assert model.best_n_iter_ == 7 + model.history_["validation"][6:].argmax()


def test_no_epoch_is_kept_of_a_training_that_diverged(make):
    model = make(learning_rate=1e30)
    with pytest.warns(ConvergenceWarning, match="diverged.*the state at the start was kept"):
        model.fit(X)
    assert model.best_n_iter_ == 0


def test_a_warm_start_that_diverged_keeps_the_epoch_of_before(make):
    model = make(warm_start=True, early_stopping=False).fit(X)
    before = model.score_samples(X)
    with pytest.warns(ConvergenceWarning, match="diverged"):
        model.set_params(learning_rate=1e30).fit(X)
    assert model.best_n_iter_ == 6
    np.testing.assert_allclose(model.score_samples(X), before, rtol=1e-5)


# --- the keyboard ---------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c(monkeypatch):
    """Function that has Ctrl-C pressed at a step; it counts the fits that were begun."""
    left, fits = [math.inf], []
    update, run = Step.update, Fit.run

    def step(self, x, progress, share):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        update(self, x, progress, share)

    def counted(self):
        fits.append(self.estimator)
        run(self)

    def press(n_steps):
        left[0] = n_steps
        return fits

    monkeypatch.setattr(Step, "update", step)
    monkeypatch.setattr(Fit, "run", counted)
    return press


def test_a_fit_that_was_interrupted_keeps_its_best_epoch(make, ctrl_c):
    ctrl_c(7)
    model = make()
    with pytest.raises(KeyboardInterrupt, match="the state of epoch . was kept"):
        model.fit(X)
    assert model.n_iter_ == 2
    assert model.best_n_iter_ == 1 + model.history_["validation"].argmax()
    ctrl_c(math.inf)
    assert_array_equal(
        model.score_samples(X), make(max_iter=model.best_n_iter_).fit(X).score_samples(X)
    )


@pytest.mark.parametrize("error_score", [np.nan, "raise"])
def test_an_interrupt_ends_a_cross_validation_at_once(error_score, make, ctrl_c):
    fits = ctrl_c(20)  # in the second of five fits
    with pytest.raises(KeyboardInterrupt):
        cross_val_score(make(), X, cv=5, error_score=error_score)
    assert len(fits) == 2
    # What the caller cannot reach is fitted all the same.
    assert np.isfinite(fits[-1].score(X))


@pytest.mark.parametrize("error_score", [np.nan, "raise"])
def test_an_interrupt_ends_a_search_at_once(error_score, ctrl_c):
    fits = ctrl_c(20)
    grid = {"prior__n_components": [2, 3]}
    search = GridSearchCV(vae(), grid, cv=3, error_score=error_score)
    with pytest.raises(KeyboardInterrupt):
        search.fit(X)
    assert len(fits) == 2 and not hasattr(search, "cv_results_")


def test_an_interrupt_passes_through_a_pipeline(make, ctrl_c):
    ctrl_c(7)
    pipeline = make_pipeline(StandardScaler(), make())
    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(X)
    assert np.isfinite(pipeline.score(X))


def test_an_interrupt_after_the_training_leaves_it_usable(monkeypatch):
    class Interrupted(GaussianMixture):
        def fit(self, X, y=None):
            raise KeyboardInterrupt

    model = vae(ex_post=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        model.fit(X)
    assert model.n_iter_ == 6 and np.isfinite(model.score(X))
