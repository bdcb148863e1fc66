"""Traces are the states of `run_chains`, and R-hat ends at what it reports."""

import numpy as np
import pytest

from skevae.displays import ChainsDisplay

pytestmark = pytest.mark.slow


def test_traces_and_r_hat(rbm, iris):
    display = ChainsDisplay.from_estimator(rbm, n_steps=60, n_chains=3, burn_in=2, random_state=4)
    chains = rbm.run_chains(3, 60, burn_in=2, random_state=4)
    assert len(display.traces_) == 3
    for j, lines in enumerate(display.traces_):
        assert len(lines) == 3
        for chain, line in enumerate(lines):
            np.testing.assert_array_equal(line.get_ydata(), chains.samples[:, chain, j])
        assert display.axes_[j].get_ylabel() == iris.columns[j]
        assert display.r_hat_lines_[j].get_ydata()[-1] == pytest.approx(chains.r_hat[j])
    assert display.steps[-1] == 60
    assert set(display.threshold_line_.get_ydata()) == {1.05}
    worst = chains.r_hat.argmax()
    assert f"{chains.r_hat[worst]:.3f} ({iris.columns[worst]})" in display.axes_[0].get_title(
        "left"
    )


def test_r_hat_of_a_prefix_by_its_formula():
    samples = np.random.RandomState(0).randn(50, 3, 2) + np.arange(3)[:, None]
    display = ChainsDisplay.from_samples(samples)
    for steps, r_hat in zip(display.steps, display.r_hat, strict=True):
        n = steps // 2
        halves = np.concatenate([samples[:n], samples[steps - n : steps]], axis=1)
        within = halves.var(0, ddof=1).mean(0)
        between = halves.mean(0).var(0, ddof=1)
        np.testing.assert_allclose(r_hat, np.sqrt((n - 1) / n + between / within))
    assert (display.r_hat[-1] > 1.05).all()


def test_the_prior_of_an_autoencoder(vae):
    display = ChainsDisplay.from_estimator(
        vae, features=[1], n_steps=8, sampler="langevin", random_state=0
    )
    chains = vae.prior_.run_chains(4, 8, sampler="langevin", random_state=0)
    np.testing.assert_array_equal(display.samples, chains.samples)
    np.testing.assert_array_equal(display.traces_[0][2].get_ydata(), chains.samples[:, 2, 1])
    assert display.axes_[0].get_ylabel() == "latent 1"


def test_of_many_chains_some_are_shown():
    samples = np.random.RandomState(0).randn(10, 9, 1)
    display = ChainsDisplay.from_samples(samples, feature_names=["x"])
    assert len(display.traces_[0]) == 6
    assert "9 chains, 6 of them shown" in display.axes_[0].get_title("left")


def test_constant_chains():
    display = ChainsDisplay.from_samples(np.zeros((5, 2, 1)))
    assert (display.r_hat == 1).all()
    apart = ChainsDisplay.from_samples(np.zeros((5, 2, 1)) + np.arange(2)[:, None])
    assert (apart.r_hat == np.inf).all()


def test_bad_input(rbm, vae, mixed, plt):
    with pytest.raises(TypeError, match="`run_chains` .* NormalPrior does not have. Priors that"):
        ChainsDisplay.from_estimator(mixed)
    with pytest.raises(ValueError, match=r"features=\[2\] .* none of the 2 columns \(latent 0"):
        ChainsDisplay.from_estimator(vae, features=[2])
    for name, value in {"n_steps": 3, "n_chains": 1, "burn_in": -1, "sampler": "nuts"}.items():
        with pytest.raises(ValueError, match=f"'{name}' parameter .* Got"):
            ChainsDisplay.from_estimator(rbm, **{name: value})
    with pytest.raises(ValueError, match=r"samples of shape \(3, 2, 1\) .* at least 4 steps"):
        ChainsDisplay.from_samples(np.zeros((3, 2, 1)))
    with pytest.raises(ValueError, match="feature_names has 1 names, but samples have 2"):
        ChainsDisplay.from_samples(np.zeros((5, 2, 2)), feature_names=["x"])
    assert not plt.get_fignums()
