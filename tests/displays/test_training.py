"""Curves are the numbers of `history_`, and the mark is at the epoch that was kept."""

import numpy as np
import pytest
from sklearn.base import clone

from skevae import EnergyVAE
from skevae.displays import TrainingDisplay


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


def test_no_epoch_of_the_warm_up_is_kept(vae):
    # Held-out bounds of the warm-up, of another objective, are higher.
    assert vae.kl_warmup * vae.max_iter == pytest.approx(2.4)
    model = clone(vae)
    model.module_ = None
    model.history_ = {"objective": np.zeros(6), "validation": np.array([9, 8, 1, 3, 2, 3.0])}
    assert TrainingDisplay.from_estimator(model).kept_epoch == 4
    model.history_["validation"][-1] = np.nan  # a later pass of partial_fit
    assert TrainingDisplay.from_estimator(model).kept_epoch == 6
    model.history_["validation"][-1] = 3
    model.set_params(warm_start=True)
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
