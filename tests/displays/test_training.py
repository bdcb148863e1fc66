"""Curves are the numbers of `history_`, and the mark is at the epoch that was kept."""

import numpy as np
import pytest
from sklearn.base import clone

from skevae import EnergyVAE
from skevae.displays import TrainingDisplay
from skevae.vae_fit import VAEFit


def test_curves_are_the_history(vae, rbm):
    for model, n_panels in [(vae, 4), (rbm, 3)]:
        display = TrainingDisplay.from_estimator(model)
        assert len(display.axes_) == n_panels
        assert set(display.lines_) == set(model.history_)
        for name, line in display.lines_.items():
            np.testing.assert_array_equal(line.get_xdata(), np.arange(1, model.n_iter_ + 1))
            np.testing.assert_array_equal(line.get_ydata(), model.history_[name])
        later = TrainingDisplay.from_estimator(model, first_epoch=3)
        np.testing.assert_array_equal(
            later.lines_["energy"].get_ydata(), model.history_["energy"][2:]
        )


def test_the_mark_is_at_the_state_that_was_kept(iris):
    # A training that is cut off right after the epoch marked ends in the same state.
    settings = {"hidden_layer_sizes": (8,), "prior": "normal", "random_state": 1, "n_draws": 1}
    model = EnergyVAE(2, kl_warmup=0, max_iter=12, learning_rate=0.3, **settings).fit(iris)
    display = TrainingDisplay.from_estimator(model)
    kept = display.kept_epoch
    assert kept < model.n_iter_
    assert [line.get_xdata()[0] for line in display.kept_lines_] == [kept] * 4
    shorter = clone(model).set_params(max_iter=kept).fit(iris)
    np.testing.assert_array_equal(shorter.score_samples(iris), model.score_samples(iris))


def test_no_epoch_of_the_warm_up_is_kept(vae, iris, monkeypatch):
    # Held-out bounds of the warm-up, of another objective, are higher. The first score is that of
    # the start, the last that of the state that was kept.
    scores = iter([-9, 9, 8, 1, 3, 2, 3, 3])
    monkeypatch.setattr(VAEFit, "validate", lambda self, held_out: float(next(scores)))
    model = clone(vae).fit(iris)
    assert model.kl_warmup * model.max_iter == pytest.approx(2.4)
    assert TrainingDisplay.from_estimator(model).kept_epoch == model.best_n_iter_ == 4


def test_the_mark_follows_passes_and_warm_starts(vae, iris):
    model = clone(vae).set_params(max_iter=3).fit(iris).partial_fit(iris)
    assert TrainingDisplay.from_estimator(model).kept_epoch == 4
    model.set_params(warm_start=True, kl_warmup=0).fit(iris)
    expected = 5 + model.history_["validation"][4:].argmax()
    assert TrainingDisplay.from_estimator(model).kept_epoch == expected


def test_no_epoch_is_marked_if_the_start_was_kept(vae):
    model = clone(vae)
    model.module_, model.history_, model.best_n_iter_ = None, {"objective": np.zeros(3)}, 0
    display = TrainingDisplay.from_estimator(model)
    assert display.kept_epoch is None and display.kept_lines_ == []


def test_without_held_out_rows_the_last_epoch_is_kept(rbm, iris):
    model = clone(rbm).set_params(early_stopping=False, max_iter=2).fit(iris)
    display = TrainingDisplay.from_estimator(model)
    assert display.kept_epoch == 2
    assert "validation" not in display.lines_


@pytest.mark.parametrize(
    "history, options, message",
    [
        ({"objective": []}, {}, "no epoch"),
        ({"loss": [1.0]}, {}, "no epoch"),
        ({"objective": [1.0], "energy": [1.0, 2.0]}, {}, "different length"),
        ({"objective": [1.0]}, {"kept_epoch": 2}, "kept_epoch=2 must be an epoch from 1 to 1"),
        ({"objective": [1.0]}, {"kept_epoch": 0}, "'kept_epoch' parameter .* Got 0"),
    ],
)
def test_bad_history(history, options, message, plt):
    with pytest.raises(ValueError, match=message):
        TrainingDisplay(history, **options).plot()
    assert not plt.get_fignums()


def test_bad_arguments(vae, plt):
    with pytest.raises(TypeError, match="history must be a dict"):
        TrainingDisplay([1.0]).plot()
    with pytest.raises(ValueError, match="first_epoch=99"):
        TrainingDisplay.from_estimator(vae, first_epoch=99)
    with pytest.raises(ValueError, match="no history_ .* pass the EnergyVAE"):
        TrainingDisplay.from_estimator(vae.prior_)
    assert not plt.get_fignums()
