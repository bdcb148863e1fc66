"""Latent paths: straight from row to row, with what is improbable moved uphill."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior
from skevae.densities.gaussian_bernoulli import GaussianBernoulliDensity
from skevae.densities.normal import StandardNormalDensity
from skevae.interpolation import raise_low_points, straight_path
from skevae.samplers import SAMPLERS


def affine(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.Linear(n_inputs, n_outputs)


def vae(**params):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "prior": GaussianBernoulliRBMPrior(4),
        "max_iter": 3,
        "n_draws": 2,
        "batch_size": 64,
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


# On a dyadic grid, so that a factor of 4 is exact.
X = np.round(np.random.RandomState(0).normal(size=(64, 3)) * 2**10) / 2**10


@pytest.fixture(scope="module")
def fitted():
    return vae().fit(X)


def put_modes(density, distance=3.0):
    """Make two equal modes, at -distance and at +distance on the first axis."""
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.zero_()
        density.visible_mean[0] = -distance
        density.weight[0, 0] = 2 * distance
    return density


@pytest.fixture(scope="module")
def two_modes():
    """Model whose encoder is the identity and whose prior has modes at (-3, 0) and (3, 0)."""
    model = vae(
        network=affine, posterior="fixed", standardize=False, prior=GaussianBernoulliRBMPrior(1)
    ).fit(X[:, :2])
    with torch.no_grad():
        model.module_.encoder.weight.copy_(torch.eye(2))
        model.module_.encoder.bias.zero_()
    put_modes(model.module_.density)
    return model


# --- the path -------------------------------------------------------------------------------------


def test_the_path_is_straight_between_the_posterior_means(fitted):
    path = fitted.interpolate(X[0], X[1], n_steps=5)
    ends = fitted.transform(X[:2])
    assert_allclose(path.latent[[0, -1]], ends, rtol=1e-12)
    t = np.linspace(0, 1, 5)[:, None]
    assert_allclose(path.latent, (1 - t) * ends[0] + t * ends[1], rtol=1e-12)
    assert_allclose(path.rows[[0, -1]], fitted.reconstruct(X[:2]), rtol=1e-12)
    assert_allclose(path.rows, fitted.inverse_transform(path.latent), rtol=1e-12)
    assert_allclose(path.log_density, fitted.prior_.score_samples(path.latent), rtol=1e-12)
    assert path.corrected.dtype == bool
    assert not path.corrected.any()


def test_two_steps_are_the_ends_and_there_is_a_way_back(fitted):
    forth, back = fitted.interpolate(X[0], X[1], 2), fitted.interpolate(X[1], X[0], 2)
    assert_array_equal(forth.rows, back.rows[::-1])
    same = fitted.interpolate(X[0], X[0], 4)
    assert_allclose(same.latent, np.tile(same.latent[0], (4, 1)), rtol=1e-12)


def test_rows_as_vectors_tables_and_frames(fitted):
    frame = pd.DataFrame(X, columns=list("abc"))
    expected = fitted.interpolate(X[0], X[1]).latent
    for x0, x1 in ((X[:1], X[1:2]), (X[0].tolist(), [X[1].tolist()]), (X[0], X[1:2])):
        assert_array_equal(fitted.interpolate(x0, x1).latent, expected)
    on_frame = vae().fit(frame)
    for x0, x1 in ((frame.iloc[0], frame.iloc[1]), (frame.iloc[[0]], frame.iloc[[1]])):
        assert_allclose(on_frame.interpolate(x0, x1).latent, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="feature names"):
        on_frame.interpolate(frame.iloc[0], frame.iloc[1].rename({"a": "d"}))


def test_precision_follows_x(fitted):
    single = X.astype(np.float32)
    path = fitted.interpolate(single[0], single[1], 4, 2)
    assert {path[name].dtype for name in ("latent", "rows", "log_density")} == {np.dtype("f4")}
    mixed = fitted.interpolate(single[0], X[1], 4, 2)
    assert {mixed[name].dtype for name in ("latent", "rows", "log_density")} == {np.dtype("f8")}
    assert_allclose(path.latent, fitted.interpolate(X[0], X[1], 4).latent, atol=1e-4)


def test_scaling_x_scales_the_rows_alone():
    path = vae().fit(X).interpolate(X[0], X[1], 6, 3)
    scaled = vae().fit(4 * X).interpolate(4 * X[0], 4 * X[1], 6, 3)
    assert_array_equal(scaled.latent, path.latent)
    assert_array_equal(scaled.log_density, path.log_density)
    assert_allclose(scaled.rows, 4 * path.rows, rtol=1e-12)


def test_log_density_is_that_of_the_ex_post_law():
    model = vae(ex_post=GaussianMixture(2)).fit(X)
    path = model.interpolate(X[0], X[1])
    assert_allclose(path.log_density, model.ex_post_.score_samples(path.latent), rtol=1e-12)
    # The trained prior corrects all the same.
    plain = vae().fit(X).interpolate(X[0], X[1], n_correction_steps=4)
    path = model.interpolate(X[0], X[1], n_correction_steps=4)
    assert_array_equal(path.latent, plain.latent)


def test_binary_rows_decode_to_probabilities():
    binary = (X > 0).astype(float)
    rows = vae(likelihood="bernoulli").fit(binary).interpolate(binary[0], binary[1], 5).rows
    assert (rows > 0).all()
    assert (rows < 1).all()


# --- corrections ----------------------------------------------------------------------------------


def test_what_lies_between_the_modes_is_corrected(two_modes):
    ends = [-3.0, 1.0], [3.0, 1.0]
    straight = two_modes.interpolate(*ends, n_steps=12)
    path = two_modes.interpolate(*ends, n_steps=12, n_correction_steps=8)
    prior = two_modes.prior_
    before, after = prior.score_samples(straight.latent), prior.score_samples(path.latent)
    low = before < before[[0, -1]].min()
    assert 4 <= low.sum() <= 10
    assert_array_equal(path.corrected, low)
    assert (after[low] > before[low] + 0.1).all()
    assert (after[low] >= before[[0, -1]].min()).all()
    assert_array_equal(path.latent[~low], straight.latent[~low])
    assert_allclose(path.log_density, after, rtol=1e-9)
    # To the mode that is nearer.
    assert (path.latent[low, 0] * straight.latent[low, 0] > 0).all()


def test_more_steps_never_lower_a_point(two_modes):
    densities = [
        two_modes.interpolate([-3.0, 1.0], [3.0, 1.0], 9, n, random_state=1).log_density
        for n in range(6)
    ]
    assert (np.diff(densities, axis=0) >= 0).all()
    assert (densities[-1] > densities[0]).any()


def test_corrections_are_reproducible(two_modes):
    def walk(seed):
        return two_modes.interpolate([-3.0, 1.0], [3.0, 1.0], 9, 1, random_state=seed).latent

    assert_array_equal(walk(5), walk(5))
    assert_array_equal(walk(None), walk(None))
    assert np.abs(walk(5) - walk(6)).max() > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_raises_the_density_or_leaves_the_point(sampler, generator):
    density = GaussianBernoulliDensity(2, 1, generator=generator(), sampler=sampler).double()
    put_modes(density)
    straight = straight_path(torch.tensor([-3.0, 1.0]), torch.tensor([3.0, 1.0]), 9).double()
    path, moved = raise_low_points(density, straight, 5, generator())
    with torch.no_grad():
        gain = density.energy(straight) - density.energy(path)
    assert (gain[moved] > 0).all()
    assert (gain[~moved] == 0).all()
    assert moved.any()


def test_a_step_is_mean_shift(generator):
    # In expectation, and up to the noise of 64 replicas: sigma / 8.
    density = put_modes(GaussianBernoulliDensity(16, 3, generator=generator())).double()
    ends = torch.zeros(2, 16).double()
    ends[0, 0], ends[1, 0] = -3.0, 3.0
    straight = straight_path(*ends, 8)
    straight[1:-1, 1:] += 2.0
    path, moved = raise_low_points(density, straight, 1, generator())
    assert moved[1:-1].all()
    with torch.no_grad():
        expected = density.as_energy().conditional_mean(density.hidden_probabilities(straight))
    # The hidden unit's own noise, 6 sqrt(p (1 - p)), comes on top along the first axis.
    assert (path - expected)[1:-1, 1:].abs().max() < 5 / 8
    assert (path - expected)[1:-1, 0].abs().max() < 5 * np.sqrt(1 + 9) / 8


def test_a_log_concave_law_has_nothing_to_correct(generator):
    straight = straight_path(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 1.0]), 9)
    path, moved = raise_low_points(StandardNormalDensity(2), straight, 5, generator())
    assert not moved.any()
    assert torch.equal(path, straight)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x0": X[:2]}, "x0 must be one row, but it has 2"),
        ({"x1": X[:2]}, "x1 must be one row, but it has 2"),
        ({"x0": 1.0}, "scalar"),
        ({"x1": [np.nan, 0.0, 0.0]}, "x1 has missing entries"),
        ({"x0": [np.inf, 0.0, 0.0]}, "x0 contains inf"),
        ({"x0": [1.0, 2.0]}, "2 features"),
        ({"x1": ["a", "b", "c"]}, "could not convert"),
        ({"n_steps": 1}, "n_steps"),
        ({"n_steps": 2.5}, "n_steps"),
        ({"n_correction_steps": -1}, "n_correction_steps"),
        ({"random_state": "seed"}, "random_state"),
    ],
)
def test_bad_arguments_are_refused(fitted, changes, message):
    with pytest.raises(ValueError, match=message):
        fitted.interpolate(**{"x0": X[0], "x1": X[1], **changes})


def test_rows_out_of_range_are_refused():
    model = vae(likelihood="bernoulli", max_iter=1).fit((X > 0).astype(float))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        model.interpolate([0.0, 0.5, 2.0], [0.0, 0.0, 0.0])


def test_interpolation_needs_fit():
    with pytest.raises(NotFittedError):
        vae().interpolate(X[0], X[1])
