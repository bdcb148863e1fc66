"""Laws of the two-sided bounds of rows that a model has made."""

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity
from test_importance import D, log_likelihood, log_z, make_model, normals
from test_refinement import each_posterior, refined, spoilt, three_laws

from skevae import EnergyVAE, NeuralPrior, NormalPrior
from skevae.evaluation.certificate import two_sided
from skevae.evaluation.importance import EncodedRows
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


def made_rows(model, n, seed=3):
    generator = make_generator(seed)
    z = model.density.sample(n, generator).double()
    with torch.no_grad():
        x = model.likelihood.sample(model.decoder(z), generator)
    return z, x


@each_posterior
@pytest.mark.parametrize("counts, strictly", [((0, 1, 0), 3), ((0, 2, 0), 3), ((2, 1, 1), -3)])
def test_the_bounds_enclose_the_closed_form(posterior, counts, strictly):
    model, n_seeds = spoilt(make_model(posterior)), 50
    lows, highs = [], []
    for seed in range(n_seeds):
        z, x = made_rows(model, 20, seed=1000 + seed)
        rows = refined(model, x) if counts[0] else EncodedRows(x, model.encoder(x), None)
        noise = three_laws(model, *counts, seed=5 * seed)
        low, high = two_sided(model, rows, noise, 10, z, make_generator(seed))
        lows.append((low - log_z(model) - log_likelihood(x)).mean().item())
        highs.append((high - log_z(model) - log_likelihood(x)).mean().item())
    for excess in (-np.array(lows), np.array(highs)):
        assert excess.mean() > strictly * excess.std() / np.sqrt(n_seeds)


def test_with_the_exact_posterior_they_meet():
    model = make_model("diagonal")
    z, x = made_rows(model, 10)
    rows = EncodedRows(x, model.encoder(x), None)
    noise = three_laws(model, 0, 5, 0)
    low, high = two_sided(model, rows, noise, 10, z, make_generator(0))
    torch.testing.assert_close(low, high, rtol=0, atol=1e-9)
    torch.testing.assert_close(low - log_z(model), log_likelihood(x), rtol=0, atol=1e-9)


@pytest.mark.slow
def test_draws_of_a_fitted_model_are_enough():
    X = normals(300, D).numpy() @ np.array([[1.0, 0.5, 0.2], [0.0, 1.0, 2.0]])
    X += 0.3 * normals(300, 3, seed=1).numpy()
    vae = EnergyVAE(2, hidden_layer_sizes=(16,), max_iter=30, random_state=0).fit(X)
    result = vae.certify(64)
    assert -3 * result.standard_error < result.gap < 0.1
    assert result.gap == pytest.approx(result.upper - result.lower)
    again = vae.certify(64)
    assert again == result
    rough = np.array([vae.certify(16, n_draws=2, random_state=seed).gap for seed in range(30)])
    assert rough.mean() > 3 * rough.std() / np.sqrt(len(rough))
    # On the scale of X: what the model makes scores as the model says.
    rows = vae.sample(500, random_state=1)
    assert abs(vae.score(rows) - result.lower) < 5 * np.std(vae.score_samples(rows)) / np.sqrt(64)


def test_without_exact_draws_there_is_no_upper_bound():
    X = normals(60, 3).numpy()
    prior = NeuralPrior(hidden_layer_sizes=(8,), n_annealing_steps=20, n_chains=32)
    vae = EnergyVAE(2, prior=prior, hidden_layer_sizes=(8,), max_iter=2, random_state=0).fit(X)
    with pytest.raises(ValueError, match="exact draws"):
        vae.certify()
    with pytest.raises(ValueError, match="n_samples"):
        vae.certify(3)


class OwnMixture(GaussianMixture):
    """May score what it likes."""


@pytest.mark.parametrize(
    "ex_post, known",
    [
        (GaussianMixture(2), True),
        (KernelDensity(), True),
        (NormalPrior(), True),
        (KernelDensity(rtol=0.1), False),
        (BayesianGaussianMixture(n_components=2), False),
        (OwnMixture(2), False),
        (EnergyVAE(1, hidden_layer_sizes=(4,), max_iter=1, prior="normal"), False),
    ],
    ids=repr,
)
def test_ex_post_has_an_upper_bound_only_where_it_is_known_to_score_what_it_samples(ex_post, known):
    X = normals(60, 3).numpy()
    vae = EnergyVAE(2, prior="normal", hidden_layer_sizes=(4,), max_iter=1, random_state=0)
    vae.set_params(ex_post=ex_post, n_score_draws=20).fit(X)
    if known:
        result = vae.certify(16)
        assert result.gap > -4 * result.standard_error
    else:
        with pytest.raises(ValueError, match="not known of ex_post="):
            vae.certify(16)


@pytest.mark.slow
def test_bounds_of_integers_are_those_of_the_rows_that_sample_returns():
    X = np.random.RandomState(0).poisson(0.3, size=(400, 3))
    vae = EnergyVAE(2, hidden_layer_sizes=(16,), max_iter=30, integer_features=[0, 1, 2])
    vae.set_params(random_state=0).fit(X)
    result = vae.certify(2000)
    scores = vae.score_samples(vae.sample(2000, random_state=1))
    assert abs(scores.mean() - result.lower) < 4 * scores.std() / np.sqrt(1000)
