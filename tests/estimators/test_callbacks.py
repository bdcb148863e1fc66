"""Progress through scikit-learn's callbacks, and the lines of verbose=1."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_priors import small_prior

from skevae import EnergyVAE, GaussianBernoulliRBMPrior

X_IRIS = load_iris().data
N_EPOCHS = 4


def vae(**params):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "prior": GaussianBernoulliRBMPrior(4),
        "max_iter": N_EPOCHS,
        "n_draws": 2,
        "n_score_draws": 20,
        "batch_size": 64,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


def rbm(**params):
    return GaussianBernoulliRBMPrior(4, **{"max_iter": N_EPOCHS, "random_state": 0, **params})


def mixture(**params):
    return small_prior("mixture", **{"max_iter": N_EPOCHS, "random_state": 0, **params})


MAKERS = {"vae": vae, "rbm": rbm, "mixture": mixture}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def own_score(estimator, X, y):
    return estimator.score(X)


def monitor_of_score():
    # scikit-learn 1.9.1 takes scoring=None at construction and fails on it in the first epoch.
    return ScoringMonitor(scoring={"score": own_score})


class Recorder:
    """Callback that notes every hook, and may stop training or raise in it."""

    def __init__(self, stop_after=None, raise_after=None):
        self.stop_after, self.raise_after = stop_after, raise_after
        self.calls, self.scores, self.arguments = [], [], []

    def setup(self, estimator, context):
        self.calls.append(("setup", context.task_name))

    def teardown(self, estimator, context):
        self.calls.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(("begin", context.task_name))

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.calls.append(("end", context.task_name))
        self.arguments.append((X, y))
        self.scores.append(fitted_estimator.score(X))
        n_ended = self.calls.count(("end", "epoch"))
        if n_ended == self.raise_after:
            raise RuntimeError("from the callback")
        return n_ended == self.stop_after


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- the hooks ------------------------------------------------------------------------------------


def test_hooks_are_called_in_order(make):
    recorder = Recorder()
    model = make().set_callbacks(recorder).fit(X_IRIS)
    epoch = [("begin", "epoch"), ("end", "epoch")]
    fit = [("begin", "fit"), *epoch * N_EPOCHS, ("end", "fit")]
    assert recorder.calls == [("setup", "fit"), *fit, ("teardown", "fit")]
    assert model.n_iter_ == N_EPOCHS
    assert all(X is X_IRIS for X, _ in recorder.arguments)


def test_callbacks_see_the_model_of_the_epoch(make):
    recorder = Recorder()
    model = make(early_stopping=False).set_callbacks(recorder).fit(X_IRIS)
    assert np.isfinite(recorder.scores).all()
    assert len(set(recorder.scores[:N_EPOCHS])) == N_EPOCHS
    # The last epoch's state is what is kept, and what the end of fit sees.
    assert_allclose(recorder.scores[-2:], model.score(X_IRIS), rtol=1e-6)


def test_callbacks_change_nothing(make):
    plain = make().fit(X_IRIS)
    watched = make().set_callbacks(Recorder(), monitor_of_score()).fit(X_IRIS)
    assert_array_equal(watched.score_samples(X_IRIS), plain.score_samples(X_IRIS))
    assert_array_equal(watched.history_["objective"], plain.history_["objective"])


def test_partial_fit_is_a_fit_of_one_epoch(make):
    recorder = Recorder()
    model = make().set_callbacks(recorder)
    for _ in range(2):
        model.partial_fit(X_IRIS)
    names = ["setup", "begin", "begin", "end", "end", "teardown"]
    assert [name for name, _ in recorder.calls] == 2 * names


def test_refit_and_warm_start(make):
    recorder = Recorder()
    model = make(warm_start=True).set_callbacks(recorder)
    model.fit(X_IRIS).fit(X_IRIS)
    assert recorder.calls.count(("end", "epoch")) == 2 * N_EPOCHS
    assert recorder.calls.count(("teardown", "fit")) == 2


def test_true_stops_training(make):
    model = make(max_iter=50).set_callbacks(Recorder(stop_after=3)).fit(X_IRIS)
    assert model.n_iter_ == 3
    assert all(len(values) == 3 for values in model.history_.values())
    assert np.isfinite(model.score(X_IRIS))


def test_stopping_keeps_what_was_learned(make):
    untrained = make(max_iter=1, learning_rate=1e-12).fit(X_IRIS)
    model = make(max_iter=50, learning_rate=1e-2, early_stopping=False)
    model.set_callbacks(Recorder(stop_after=5)).fit(X_IRIS)
    assert model.score(X_IRIS) > untrained.score(X_IRIS) + 0.01


def test_teardown_after_an_error_in_a_callback(make):
    recorder = Recorder(raise_after=2)
    model = make().set_callbacks(recorder)
    with pytest.raises(RuntimeError, match="from the callback"):
        model.fit(X_IRIS)
    assert recorder.calls[-1] == ("teardown", "fit")
    assert not hasattr(model, "_callback_fit_ctx")
    # and the estimator can be fitted again.
    assert np.isfinite(model.set_callbacks().fit(X_IRIS).score(X_IRIS))


def test_teardown_after_a_bad_parameter(make):
    recorder = Recorder()
    with pytest.raises(ValueError):
        make(validation_fraction=0.999).set_callbacks(recorder).fit(X_IRIS)
    assert [name for name, _ in recorder.calls] in ([], ["setup", "teardown"])


def test_teardown_after_divergence(make):
    recorder = Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(learning_rate=1e6, batch_size=16).set_callbacks(recorder).fit(X_IRIS)
    assert recorder.calls[-2:] == [("end", "fit"), ("teardown", "fit")]


def test_only_callbacks_are_taken(make):
    with pytest.raises(TypeError, match="FitCallback"):
        make().set_callbacks(print)


# --- scikit-learn's own ---------------------------------------------------------------------------


def test_scoring_monitor_logs_one_score_an_epoch(make):
    monitor = monitor_of_score()
    model = make(early_stopping=False).set_callbacks(monitor).fit(X_IRIS)
    rows = monitor.get_logs().data
    epochs = [row for row in rows if row["task_name"] == "epoch"]
    assert [row["task_id"] for row in epochs] == list(range(N_EPOCHS))
    assert all(row["estimator_name"] == type(model).__name__ for row in rows)
    scores = [row["score"] for row in epochs]
    assert np.isfinite(scores).all()
    assert_allclose(scores[-1], model.score(X_IRIS), rtol=1e-6)
    assert [row["task_name"] for row in rows if row not in epochs] == ["fit"]


def test_scoring_monitor_with_a_scorer_of_its_own(make):
    def worst(estimator, X, y):
        return estimator.score_samples(X).min()

    monitor = ScoringMonitor(scoring={"mean": own_score, "worst": worst})
    make().set_callbacks(monitor).fit(X_IRIS)
    for row in monitor.get_logs().data:
        assert row["worst"] < row["mean"]


def test_scoring_monitor_passes_a_target_through(make):
    seen = []

    def scorer(estimator, X, y):
        seen.append(y)
        return 0.0

    y = load_iris().target
    make().set_callbacks(ScoringMonitor(scoring={"none": scorer})).fit(X_IRIS, y)
    assert all(target is y for target in seen)


def test_progress_bar(make, capsys):
    model = make().set_callbacks(ProgressBar(), monitor_of_score()).fit(X_IRIS)
    printed = capsys.readouterr().out
    assert f"{type(model).__name__} - fit" in printed
    assert "100%" in printed


def test_progress_bar_that_ends_early(make, capsys):
    make(max_iter=50).set_callbacks(ProgressBar(), Recorder(stop_after=2)).fit(X_IRIS)
    assert "100%" in capsys.readouterr().out


def test_progress_bar_in_a_pipeline(make, capsys):
    estimator = make()
    make_pipeline(StandardScaler(), estimator).set_callbacks(ProgressBar()).fit(X_IRIS)
    printed = capsys.readouterr().out
    assert "Pipeline - fit" in printed
    assert type(estimator).__name__ in printed


def test_scoring_monitor_in_a_pipeline(make):
    monitor = monitor_of_score()
    make_pipeline(StandardScaler(), make().set_callbacks(monitor)).fit(X_IRIS)
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(epochs) == N_EPOCHS


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_progress_bar_in_a_grid_search(n_jobs, capsys):
    search = GridSearchCV(
        make_pipeline(StandardScaler(), vae()),
        {"energyvae__prior__n_components": [3, 4]},
        cv=2,
        n_jobs=n_jobs,
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X_IRIS)
    printed = capsys.readouterr().out
    assert "GridSearchCV" in printed
    assert "EnergyVAE" in printed
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_scoring_monitor_in_a_grid_search():
    monitor = monitor_of_score()
    search = GridSearchCV(vae().set_callbacks(monitor), {"n_components": [1, 2]}, cv=2, n_jobs=1)
    search.fit(X_IRIS)
    logs = monitor.get_logs(select="all")
    epochs = [row for log in logs for row in log.data if row["task_name"] == "epoch"]
    assert len(epochs) == N_EPOCHS * (2 * 2 + 1)


def test_clone_keeps_and_pickle_drops_no_model(make):
    model = make().set_callbacks(Recorder())
    assert len(clone(model)._skl_callbacks) == 1
    fitted = model.fit(X_IRIS)
    again = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(again.score_samples(X_IRIS), fitted.score_samples(X_IRIS))


# --- verbose --------------------------------------------------------------------------------------


def test_verbose_prints_a_line_an_epoch(make, capsys):
    model = make(verbose=1).fit(X_IRIS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_ == N_EPOCHS
    for epoch, line in enumerate(lines, start=1):
        assert line.startswith(f"[{type(model).__name__}] epoch {epoch} ")
        assert "objective" in line
        assert "validation" in line


def test_silent_by_default(make, capsys):
    make().fit(X_IRIS)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_verbose_is_on_the_scale_of_x(make, capsys):
    model = make(verbose=1).fit(1000 * X_IRIS)
    last = capsys.readouterr().out.splitlines()[-1]
    printed = float(last.split("objective")[1].split()[0])
    assert printed == pytest.approx(model.history_["objective"][-1], abs=1e-3)


@pytest.mark.filterwarnings("error:X does not have valid feature names")
def test_scoring_callbacks_see_the_frame_that_was_given(make):
    monitor = ScoringMonitor(scoring={"score": lambda estimator, X, y: estimator.score(X)})
    frame = pd.DataFrame(X_IRIS, columns=list("abcd"))
    model = make().set_callbacks(monitor).fit(frame)
    assert len(monitor.get_logs().data) == model.n_iter_ + 1  # and the fit as a whole
