"""EnergyVAE as users call it: fit and go on, options, history, samples, memory."""

import pickle
import re
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from building import CONTINUOUS
from numpy.testing import assert_allclose, assert_array_equal
from pairs import all_pairs, cover, pairwise, quick_and_slow
from scipy.special import expit
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler
from small_priors import LATER, small_prior
from torch import nn

from skevae import EnergyVAE, GaussianBernoulliRBMPrior, NormalPrior
from skevae.likelihoods import LIKELIHOODS
from skevae.networks import NETWORKS
from skevae.networks.layers import ACTIVATIONS
from skevae.networks.precision import PRECISIONS
from skevae.partitions import PARTITIONS
from skevae.partitions.exact import ExactPartition
from skevae.posteriors import POSTERIORS
from skevae.priors import PRIORS
from skevae.training import OBJECTIVES
from skevae.vae_fit import VAEFit

X_IRIS = load_iris().data
X_UNIT = (X_IRIS - X_IRIS.min(axis=0)) / np.ptp(X_IRIS, axis=0)
TERMS = {"objective", "reconstruction", "energy", "log_partition"}


def vae(**params):
    defaults = {
        "n_components": 2,
        "hidden_layer_sizes": (8,),
        "prior": GaussianBernoulliRBMPrior(4),
        "max_iter": 3,
        "n_draws": 2,
        "n_score_draws": 50,
        "batch_size": 64,  # three steps an epoch of iris
        "random_state": 0,
    }
    return EnergyVAE(**{**defaults, **params})


def rows_for(likelihood):
    return X_IRIS if likelihood in CONTINUOUS else X_UNIT


def assert_works(model, X):
    model.fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert model.transform(X).shape == (len(X), model.n_components)
    assert np.isfinite(model.reconstruct(X)).all()
    assert np.isfinite(model.sample(3, random_state=0)).all()
    assert TERMS <= set(model.history_)
    return model


# --- options --------------------------------------------------------------------------------------


def is_refused(objective, partition, posterior):
    """Whether a doubly reparametrised gradient is asked for where there is none."""
    flow = not POSTERIORS[posterior].has_log_density
    refused = flow or PARTITIONS.get(partition, ExactPartition).needs_posterior
    return objective == "iwae-dreg" and refused


def may_be_combined(prior, partition, objective, posterior, likelihood):
    no_closed_form = (prior, partition) == ("neural", "exact")
    return not is_refused(objective, partition, posterior) and not no_closed_form


OPTIONS = [PRIORS, [*PARTITIONS, "auto"], OBJECTIVES, POSTERIORS, LIKELIHOODS]
# Each three options that meet in all combinations with two priors, and of the other priors in those
# with the default training and those with the default networks.
COMBINATIONS = [
    case
    for case in [
        *product(["grbm", "normal"], *OPTIONS[1:]),
        *product(LATER, OPTIONS[1], ["iwae"], ["diagonal"], ["gaussian-mixture"]),
        *product(LATER, ["auto"], ["iwae"], POSTERIORS, LIKELIHOODS),
    ]
    if may_be_combined(*case)
]


@quick_and_slow(
    "prior, partition, objective, posterior, likelihood",
    all_pairs(*OPTIONS, allowed=may_be_combined),
    cover(COMBINATIONS, 3),
)
def test_options_can_be_combined(prior, partition, objective, posterior, likelihood):
    model = vae(
        prior=small_prior(prior, n_annealing_steps=20),
        partition=partition,
        objective=objective,
        posterior=posterior,
        likelihood=likelihood,
        max_iter=2,
    )
    assert_works(model, rows_for(likelihood))


def test_a_doubly_reparametrised_gradient_is_refused_where_there_is_none():
    for partition, posterior in product([*PARTITIONS, "auto"], POSTERIORS):
        if is_refused("iwae-dreg", partition, posterior):
            model = vae(objective="iwae-dreg", partition=partition, posterior=posterior)
            message = "objective='iwae-dreg' (needs|cannot be combined)"
            with pytest.raises(ValueError, match=message):
                model.fit(X_IRIS)


def test_exact_training_is_refused_where_there_is_no_closed_form():
    with pytest.raises(ValueError, match="partition='exact'.*no closed form"):
        vae(prior=small_prior("neural"), partition="exact").fit(X_IRIS)


@pairwise("network, activation, weight_norm", NETWORKS, ACTIVATIONS, [True, False])
def test_networks(network, activation, weight_norm):
    assert_works(
        vae(network=NETWORKS[network](activation=activation, weight_norm=weight_norm)), X_IRIS
    )


@pytest.mark.parametrize("sizes", [8, np.int64(8), (8,), [8], np.array([8]), "8"])
def test_hidden_layer_sizes_as_a_number_or_a_list(sizes):
    if isinstance(sizes, str):
        with pytest.raises(ValueError, match="hidden_layer_sizes"):
            vae(hidden_layer_sizes=sizes).fit(X_IRIS)
        return
    expected = vae().fit(X_IRIS).score_samples(X_IRIS)
    model = vae(hidden_layer_sizes=sizes).fit(X_IRIS)
    assert_array_equal(model.score_samples(X_IRIS), expected)


@pytest.mark.parametrize("sizes", [(), (16, 8, 4), [5, 6]])
def test_the_decoder_mirrors_the_encoder(sizes):
    model = assert_works(vae(hidden_layer_sizes=sizes), X_IRIS)
    widths = [
        [layer.out_features for layer in part.modules() if isinstance(layer, nn.Linear)][:-1]
        for part in (model.module_.encoder, model.module_.decoder)
    ]
    assert widths == [list(sizes), list(sizes)[::-1]]


def test_network_of_one_s_own():
    calls = []

    def build(n_inputs, n_outputs, hidden_layer_sizes):
        calls.append((n_inputs, n_outputs, tuple(hidden_layer_sizes)))
        return nn.Sequential(nn.Linear(n_inputs, 7), nn.Tanh(), nn.Linear(7, n_outputs))

    model = vae(network=build, hidden_layer_sizes=(9, 3), likelihood="gaussian-rowwise")
    assert_works(model, X_IRIS)
    # Mean and scale of each latent; mean and scale of each feature.
    assert calls == [(4, 4, (9, 3)), (2, 8, (3, 9))]


def test_network_of_one_s_own_is_seeded():
    def build(n_inputs, n_outputs, hidden_layer_sizes):
        return nn.Linear(n_inputs, n_outputs)

    first, second = (vae(network=build).fit(X_IRIS).score_samples(X_IRIS) for _ in range(2))
    assert_array_equal(first, second)


class PrecisionWatcher(nn.Linear):
    """Layer that notes the dtype of what it returns, and whether gradients flow."""

    seen = set()

    def forward(self, x):
        y = super().forward(x)
        self.seen.add((torch.is_grad_enabled(), y.dtype))
        return y


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_that_of_the_networks_in_training_alone(precision, monkeypatch):
    monkeypatch.setattr(VAEFit, "averaging", 0.0)

    def build(n_inputs, n_outputs, hidden_layer_sizes):
        return PrecisionWatcher(n_inputs, n_outputs)

    PrecisionWatcher.seen.clear()
    model = vae(network=build, precision=precision).fit(X_IRIS)
    trained = {dtype for with_grad, dtype in PrecisionWatcher.seen if with_grad}
    assert trained == {getattr(torch, precision)}
    assert all(parameter.dtype == torch.float32 for parameter in model.module_.parameters())
    assert all(values.dtype == np.float64 for values in model.history_.values())

    PrecisionWatcher.seen.clear()
    calls = [model.score_samples, model.transform, model.reconstruct]
    results = [call(X_IRIS) for call in calls]
    model.set_params(precision="float32")
    for result, call in zip(results, calls, strict=True):
        assert_array_equal(result, call(X_IRIS))
    assert {dtype for _, dtype in PrecisionWatcher.seen} == {torch.float64}


@pytest.mark.slow
def test_half_the_digits_in_training_reach_nearly_the_same_likelihood():
    X = (load_digits().data > 8).astype(np.float32)
    settings = {"likelihood": "bernoulli", "hidden_layer_sizes": (64,), "n_components": 8}
    scores = {
        precision: vae(**settings, precision=precision, max_iter=30).fit(X).score(X[:300])
        for precision in PRECISIONS
    }
    assert scores["float32"] > -18  # the frequencies of the columns alone give -24.4
    assert abs(scores["float32"] - scores["bfloat16"]) < 0.1


class Watcher(nn.Linear):
    """Layer that notes the rows it is given in training steps, and apart from them."""

    trained, watched, modes = [], [], set()

    def forward(self, x):
        if x.dim() == 2 and x.shape[1] == self.in_features:
            (self.trained if torch.is_grad_enabled() else self.watched).append(x.detach().clone())
        if not torch.is_grad_enabled():
            self.modes.add(self.training)
        return super().forward(x)


def watched_network(n_inputs, n_outputs, hidden_layer_sizes):
    return Watcher(n_inputs, n_outputs)


@pytest.fixture
def watcher():
    for seen in (Watcher.trained, Watcher.watched, Watcher.modes):
        seen.clear()
    return Watcher


def test_held_out_rows_are_not_trained_on(watcher):
    X = np.random.RandomState(0).normal(size=(100, 4))
    vae(network=watched_network, n_components=2, validation_fraction=0.25, max_iter=3).fit(X)
    trained = {tuple(row.tolist()) for batch in watcher.trained for row in batch}
    seen = {tuple(row.tolist()) for batch in watcher.watched for row in batch if len(batch) == 25}
    assert len(trained) == 75
    assert len(seen) == 25
    assert not trained & seen


def test_without_early_stopping_all_rows_are_trained_on(watcher):
    X = np.random.RandomState(0).normal(size=(100, 4))
    vae(network=watched_network, early_stopping=False).fit(X)
    assert len({tuple(row.tolist()) for batch in watcher.trained for row in batch}) == 100


def test_validation_runs_in_evaluation_mode(watcher):
    # Dropout must not blur the score that picks the best epoch.
    vae(network=watched_network).fit(X_IRIS)
    assert watcher.modes == {False}


def with_dropout(n_inputs, n_outputs, hidden_layer_sizes):
    return nn.Sequential(nn.Linear(n_inputs, 8), nn.Dropout(0.5), nn.Linear(8, n_outputs))


def test_dropout_is_off_after_fit():
    model = vae(network=with_dropout).fit(X_IRIS)
    assert_array_equal(model.score_samples(X_IRIS), model.score_samples(X_IRIS))
    assert not model.module_.training


def test_dropout_follows_random_state_and_leaves_the_global_generator_alone():
    scores = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        scores.append(vae(network=with_dropout).fit(X_IRIS).score_samples(X_IRIS))
        assert torch.equal(torch.get_rng_state(), before)
    assert_array_equal(*scores)


def test_n_components_may_exceed_n_features():
    assert_works(vae(n_components=9), X_IRIS)
    assert_works(vae(n_components=1), X_IRIS[:, :1])


@pytest.mark.parametrize("batch_size", [1, 7, 150, 10_000, "auto"])
def test_batch_sizes(batch_size):
    assert_works(vae(batch_size=batch_size, max_iter=2), X_IRIS[:40])


def test_y_is_ignored():
    y = load_iris().target
    model = vae().fit(X_IRIS, y)
    assert_array_equal(model.score_samples(X_IRIS), vae().fit(X_IRIS).score_samples(X_IRIS))
    assert model.score(X_IRIS, y) == model.score(X_IRIS)


def test_constructor_sets_nothing_but_parameters():
    model = EnergyVAE()
    assert set(vars(model)) == set(model.get_params())


# --- fitted attributes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return vae(max_iter=8).fit(X_IRIS)


def test_prior_is_a_fitted_estimator(fitted):
    prior = fitted.prior_
    assert isinstance(prior, GaussianBernoulliRBMPrior)
    assert prior.components_.shape == (4, 2)
    assert prior.intercept_hidden_.shape == (4,)
    assert prior.intercept_visible_.shape == (2,)
    assert prior.scale_.shape == (2,)
    low, high = prior.log_partition_interval_
    assert low == high == prior.log_partition_
    Z = prior.sample(10, random_state=0)
    assert prior.score_samples(Z).shape == (10,)
    assert prior.transform(Z).shape == (10, 4)
    assert isinstance(vae(prior="normal").fit(X_IRIS).prior_, NormalPrior)


def test_an_integer_random_state_makes_all_calls_reproducible(fitted):
    # Those of the prior too, whose own random_state is None.
    again = clone(fitted).fit(X_IRIS)
    assert_array_equal(again.sample(5), fitted.sample(5))
    assert_array_equal(again.prior_.sample(5), fitted.prior_.sample(5))


def test_the_prior_runs_on_the_device_of_the_model():
    assert vae(device="cpu").fit(X_IRIS).prior_.device == "cpu"
    assert vae(device="cpu", prior="grbm").fit(X_IRIS).prior_.device == "cpu"


def test_shapes_and_dtypes(fitted):
    for dtype in (np.float32, np.float64):
        X = X_IRIS.astype(dtype)
        Z = fitted.transform(X)
        assert Z.shape == (150, 2)
        assert Z.dtype == fitted.inverse_transform(Z).dtype == fitted.reconstruct(X).dtype == dtype
        assert fitted.inverse_transform(Z).shape == X.shape
        assert fitted.score_samples(X).shape == (150,)
    assert isinstance(fitted.score(X_IRIS), float)
    assert fitted.sample().shape == (1, 4)
    assert fitted.sample(6).shape == (6, 4)
    assert fitted.sample(6).dtype == np.float64
    assert_array_equal(fitted.fit_transform(X_IRIS), fitted.transform(X_IRIS))


def test_reconstruction_by_affine_networks_is_affine():
    # The mean of x at the mean of z: what is drawn, or taken from another scale, is not.
    def affine(n_inputs, n_outputs, hidden_layer_sizes):
        return nn.Linear(n_inputs, n_outputs)

    model = vae(network=affine, likelihood="gaussian", n_components=4)
    model.set_params(max_iter=30, learning_rate=5e-2).fit(X_IRIS)
    centre, (first, second) = X_IRIS.mean(axis=0), (X_IRIS[:75], X_IRIS[75:])
    halfway = model.reconstruct((first + second) / 2)
    by_half = (model.reconstruct(first) + model.reconstruct(second)) / 2
    assert_allclose(halfway, by_half, rtol=1e-9)
    # As many latents as features: little is lost.
    error = model.reconstruct(X_IRIS) - X_IRIS
    assert (error.var(axis=0) < 0.5 * (X_IRIS - centre).var(axis=0)).all()


def test_log_likelihood_is_a_bunch_of_rows(fitted):
    result = fitted.log_likelihood(X_IRIS)
    fields = ["log_likelihood", "standard_error", "effective_sample_size", "pareto_k", "n_draws"]
    assert sorted(result) == sorted(fields)
    for name in fields:
        assert result[name].shape == (150,)
    assert (result.standard_error > 0).all()
    assert (result.effective_sample_size >= 1).all()
    assert (result.effective_sample_size <= 50).all()


def test_samples_are_on_the_scale_of_x():
    X = X_IRIS * [1e-3, 1.0, 50.0, 1e4] + [0, 100, -3e3, 1e6]
    model = vae(max_iter=60, early_stopping=False, learning_rate=3e-2).fit(X)
    S = model.sample(2000)
    spread = X.std(axis=0)
    assert (np.abs(S.mean(axis=0) - X.mean(axis=0)) < 0.5 * spread).all()
    assert (np.abs(np.log(S.std(axis=0) / spread)) < 0.5).all()
    error = (model.reconstruct(X) - X).std(axis=0)
    assert (error < spread).all()
    # The decoder's mean, not a draw: the same each time, and smoother than samples.
    assert_array_equal(model.reconstruct(X), model.reconstruct(X))


def test_samples_score_as_the_model_says():
    model = vae(max_iter=40, learning_rate=2e-2, n_score_draws=500).fit(X_IRIS)
    drawn, trained = model.score_samples(model.sample(500)), model.score_samples(X_IRIS)
    # The mean log-density of draws is minus the model's entropy; rows it was fitted to come near.
    assert abs(drawn.mean() - trained.mean()) < 1.0


def test_binary_samples_and_means():
    model = vae(likelihood="bernoulli").fit(X_UNIT)
    assert set(np.unique(model.sample(50))) == {0.0, 1.0}
    means = model.inverse_transform(model.prior_.sample(50, random_state=0))
    assert (means > 0).all()
    assert (means < 1).all()
    assert (model.score_samples((X_UNIT > 0.5).astype(float)) < 0).all()


def test_standardize_off_leaves_units_alone():
    model = vae(standardize=False, max_iter=40, learning_rate=4e-2).fit(X_IRIS)
    assert_allclose(model.sample(2000).mean(axis=0), X_IRIS.mean(axis=0), atol=0.5)
    with_it = vae(max_iter=40, learning_rate=4e-2).fit(X_IRIS)
    assert abs(model.score(X_IRIS) - with_it.score(X_IRIS)) < 1.5


# --- training -------------------------------------------------------------------------------------


def test_it_learns():
    train, test = X_IRIS[::2], X_IRIS[1::2]
    model = EnergyVAE(random_state=0, n_score_draws=200).fit(train)
    diagonal = GaussianMixture(1, covariance_type="diag").fit(train)
    assert model.score(test) > diagonal.score(test) + 1
    assert model.score(test) > GaussianMixture(1).fit(train).score(test) - 0.5


def test_history_is_one_entry_an_epoch_on_the_scale_of_x():
    big = vae(max_iter=5).fit(1000 * X_IRIS).history_
    small = vae(max_iter=5).fit(X_IRIS).history_
    assert set(big) == TERMS | {"validation"}
    shift = -4 * np.log(1000)
    for name, values in big.items():
        assert values.shape == (5,)
        assert values.dtype == np.float64
        moves = shift if name in ("objective", "reconstruction", "validation") else 0.0
        # float32 training: the standardised rows differ by their rounding.
        assert_allclose(values, small[name] + moves, atol=1e-2)


def test_history_says_what_score_says(monkeypatch):
    monkeypatch.setattr(VAEFit, "averaging", 0.0)
    model = vae(max_iter=30, early_stopping=False, n_draws=32, learning_rate=1e-3).fit(X_IRIS)
    score = model.set_params(n_score_draws=32).score(X_IRIS)
    assert model.history_["objective"][-1] == pytest.approx(score, abs=0.3)


def test_rows_are_given_as_many_draws_as_tol_asks_for():
    model = vae(max_iter=25, learning_rate=1e-2, n_score_draws=1000).fit(X_IRIS)
    # Some rows far from the others, which need more draws.
    X = np.r_[X_IRIS, X_IRIS[:30] * [1.5, 1, 2, 0.3]]
    everything = model.log_likelihood(X)
    assert (everything.n_draws == 1000).all()
    # A quarter of the draws has twice the error, a sixteenth four times: some rows of each kind.
    tol = min(0.99, np.quantile(everything.standard_error, 0.5) * 3.6)
    found = model.log_likelihood(X, tol=tol)
    assert set(found.n_draws) == {62, 250, 1000}
    given_all = found.n_draws == 1000
    assert_allclose(found.log_likelihood[given_all], everything.log_likelihood[given_all])
    precise = np.median(everything.standard_error[~given_all])
    assert precise < np.median(everything.standard_error[given_all])
    some = model.log_likelihood(X[40:60], tol=tol)
    assert_allclose(some.log_likelihood, found.log_likelihood[40:60], rtol=1e-9)
    # Eq. 5 with fewer draws would be something else, and few draws have no error to go by.
    for options in ({"method": "self_normalized"}, {"n_draws": 399}):
        result = model.log_likelihood(X, **options)
        assert (result.n_draws == options.get("n_draws", 1000)).all()


def test_terms_of_the_elbo_add_up():
    # objective = reconstruction - energy + entropy of q - ln Z, and the entropy of a unit normal
    # is known.
    model = vae(objective="elbo", posterior="fixed", max_iter=4, early_stopping=False, n_draws=64)
    history = model.fit(X_IRIS).history_
    entropy = np.log(2 * np.pi * np.e)
    total = history["reconstruction"] - history["energy"] + entropy - history["log_partition"]
    # The entropy is that of 64 draws a row: 2 degrees of freedom, variance 1.
    assert_allclose(history["objective"], total, atol=5 / np.sqrt(64 * 150))


def test_no_validation_without_early_stopping():
    model = vae(early_stopping=False).fit(X_IRIS)
    assert set(model.history_) == TERMS
    assert model.n_iter_ == 3


def test_early_stopping_restores_the_best_state(monkeypatch):
    monkeypatch.setattr(VAEFit, "max_drops", 0)
    model = vae(
        max_iter=400,
        learning_rate=3e-2,
        n_iter_no_change=5,
        kl_warmup=0.0,
        hidden_layer_sizes=64,
    ).fit(X_IRIS)
    validation = model.history_["validation"]
    best = validation.argmax()
    assert model.n_iter_ < 400
    assert best < model.n_iter_ - 1
    # A run that ends right there gives the same model, step for step.
    stopped = clone(model).set_params(max_iter=best + 1, n_iter_no_change=1000).fit(X_IRIS)
    assert_allclose(stopped.score_samples(X_IRIS), model.score_samples(X_IRIS), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n_rate_drops", [0, 1, 2])
def test_patience_counts_epochs_without_a_rise(n_rate_drops, monkeypatch):
    monkeypatch.setattr(VAEFit, "max_drops", n_rate_drops)
    model = vae(max_iter=400, n_iter_no_change=6, tol=0.05, kl_warmup=0.0).fit(X_IRIS)
    reference, stale, n_stops = -np.inf, 0, 0
    for value in model.history_["validation"]:
        assert n_stops <= n_rate_drops
        stale = 0 if value > reference + 0.05 else stale + 1
        reference = max(value, reference)
        if stale == 6:
            stale, n_stops = 0, n_stops + 1
    assert n_stops == n_rate_drops + 1


def test_the_warm_up_is_no_candidate_and_no_reason_to_stop():
    model = vae(max_iter=40, kl_warmup=1.0, n_iter_no_change=1).fit(X_IRIS)
    assert model.n_iter_ == 40
    model = vae(max_iter=40, kl_warmup=0.5, n_iter_no_change=1, learning_rate=1e-8).fit(X_IRIS)
    assert 20 < model.n_iter_ <= 23


@pytest.mark.parametrize("kl_warmup", [0, 0.0, 0.3, 1, 1.0])
def test_kl_warmup(kl_warmup):
    assert_works(vae(kl_warmup=kl_warmup, max_iter=5), X_IRIS)


def test_kl_warmup_starts_from_the_reconstruction(monkeypatch):
    monkeypatch.setattr(VAEFit, "averaging", 0.0)
    # Nothing pulls on the posterior in the first steps of a long warm-up.
    common = {"objective": "elbo", "early_stopping": False, "max_iter": 30}
    cold, warm = (vae(kl_warmup=w, **common).fit(X_IRIS).history_ for w in (0.0, 1.0))
    assert warm["reconstruction"][-1] > cold["reconstruction"][-1]
    # What is logged is the bound itself, at weight 1.
    assert warm["objective"][0] == pytest.approx(cold["objective"][0], abs=1.0)


def test_paper_s_partition_reports_what_score_does_not():
    model = vae(
        partition="posterior",
        objective="elbo",
        max_iter=50,
        early_stopping=False,
        learning_rate=1e-2,
        n_draws=4,
    ).fit(X_IRIS)
    assert model.history_["objective"][-1] > model.score(X_IRIS) + 0.5


@pytest.mark.slow
def test_persistent_training_comes_close_to_exact_training():
    common = {"max_iter": 80, "learning_rate": 2e-2, "n_score_draws": 200}
    exact, chains = (
        vae(partition=name, **common).fit(X_IRIS).score(X_IRIS) for name in ("exact", "persistent")
    )
    assert abs(exact - chains) < 0.5


def test_partition_of_the_prior_estimator_counts_under_auto():
    chains = GaussianBernoulliRBMPrior(4, partition="persistent")
    by_prior = vae(prior=chains).fit(X_IRIS).score_samples(X_IRIS)
    by_model = vae(partition="persistent").fit(X_IRIS).score_samples(X_IRIS)
    assert_array_equal(by_prior, by_model)
    overruled = vae(prior=chains, partition="exact").fit(X_IRIS).score_samples(X_IRIS)
    assert_array_equal(overruled, vae(partition="exact").fit(X_IRIS).score_samples(X_IRIS))


def test_learning_rate_zero_like_changes_nothing():
    first = vae(learning_rate=1e-12, max_iter=1).fit(X_IRIS)
    second = vae(learning_rate=1e-12, max_iter=5).fit(X_IRIS)
    assert_allclose(first.score_samples(X_IRIS), second.score_samples(X_IRIS), atol=1e-5)


def test_dynamic_binarisation():
    rng = np.random.RandomState(0)
    p = expit(rng.normal(size=(200, 5)) + 2 * rng.choice([-1, 1], size=(200, 1)))
    common = {"likelihood": "bernoulli", "max_iter": 40, "learning_rate": 2e-2}
    on_probabilities = vae(**common).fit(p)
    on_one_draw = vae(**common).fit((rng.uniform(size=p.shape) < p).astype(float))
    fresh = (rng.uniform(size=(4000, 5)) < np.tile(p, (20, 1))).astype(float)
    # Each visit draws anew, so probabilities teach more than one draw of them.
    assert on_probabilities.score(fresh) > on_one_draw.score(fresh) - 0.02
    assert_allclose(on_probabilities.sample(5000).mean(axis=0), p.mean(axis=0), atol=0.1)


def test_rounding_probabilities_is_not_what_happens():
    # Grey rows of 0.2 everywhere: rounding would make them zeros.
    model = vae(likelihood="bernoulli", max_iter=20, learning_rate=3e-2)
    model.fit(np.full((300, 6), 0.2) + 1e-3 * np.random.RandomState(0).normal(size=(300, 6)))
    assert model.sample(4000).mean() == pytest.approx(0.2, abs=0.06)


# --- going on -------------------------------------------------------------------------------------


def test_refit_starts_again(fitted):
    model = clone(fitted)
    first = model.fit(X_IRIS).score_samples(X_IRIS)
    model.fit(X_IRIS[:50])
    assert_array_equal(model.fit(X_IRIS).score_samples(X_IRIS), first)
    assert model.n_iter_ == len(model.history_["objective"]) <= 8


def test_refit_on_another_number_of_columns():
    model = vae().fit(X_IRIS)
    assert model.fit(X_IRIS[:, :2]).sample(2).shape == (2, 2)


def test_warm_start_goes_on():
    model = vae(warm_start=True, max_iter=5, early_stopping=False).fit(X_IRIS)
    first = model.score(X_IRIS)
    encoder = model.module_.encoder
    model.set_params(max_iter=40, kl_warmup=0.0).fit(X_IRIS)
    assert model.n_iter_ == 45
    assert all(values.shape == (45,) for values in model.history_.values())
    assert model.score(X_IRIS) > first
    assert model.module_.encoder is not encoder


def test_warm_start_holds_out_the_same_rows(monkeypatch):
    # Other rows have been trained on, and would be scored too well.
    seen = []
    validate = VAEFit.validate

    def watch(self, held_out):
        seen.append(held_out.clone())
        return validate(self, held_out)

    monkeypatch.setattr(VAEFit, "validate", watch)
    for random_state in (0, None):
        seen.clear()
        model = vae(warm_start=True, max_iter=1, early_stopping=True, random_state=random_state)
        for _ in range(3):
            model = pickle.loads(pickle.dumps(model.fit(X_IRIS)))
        assert all(torch.equal(rows, seen[0]) for rows in seen)


def test_warm_start_keeps_the_standardisation():
    model = vae(warm_start=True, learning_rate=1e-12, early_stopping=False).fit(X_IRIS)
    before = model.score_samples(X_IRIS)
    model.fit(10 * X_IRIS + 5)
    assert_allclose(model.score_samples(X_IRIS), before, atol=1e-4)


@pytest.mark.slow
def test_warm_start_of_a_converged_model_is_no_loss():
    model = vae(max_iter=80, learning_rate=2e-2, warm_start=True, n_score_draws=200).fit(X_IRIS)
    before = model.score(X_IRIS)
    assert model.fit(X_IRIS).score(X_IRIS) > before - 0.1


def test_partial_fit_learns():
    model = vae(n_score_draws=200, learning_rate=1e-2)
    first = model.partial_fit(X_IRIS).score(X_IRIS)
    for _ in range(20):
        model.partial_fit(X_IRIS)
    assert model.score(X_IRIS) > first + 0.5
    assert model.n_iter_ == 21
    assert all(values.shape == (21,) for values in model.history_.values())


def test_partial_fit_of_chunks_sees_all_of_them():
    model = vae(learning_rate=3e-2)
    chunks = np.array_split(np.random.RandomState(0).permutation(X_IRIS), 3)
    for _, chunk in product(range(15), chunks):
        model.partial_fit(chunk)
    assert model.score(X_IRIS) > GaussianMixture(1, covariance_type="diag").fit(X_IRIS).score(
        X_IRIS
    )


def test_partial_fit_keeps_the_optimizer_going():
    # Adam with its moments is not Adam begun anew.
    straight = vae().partial_fit(X_IRIS).partial_fit(X_IRIS).score_samples(X_IRIS)
    model = vae().partial_fit(X_IRIS)
    model._training_state = None
    assert np.abs(model.partial_fit(X_IRIS).score_samples(X_IRIS) - straight).max() > 1e-6


@pytest.mark.parametrize("early_stopping", [True, False])
def test_partial_fit_after_fit(early_stopping):
    model = vae(early_stopping=early_stopping).fit(X_IRIS)
    before = model.score(X_IRIS)
    model.partial_fit(X_IRIS)
    assert model.n_iter_ == 4
    assert abs(model.score(X_IRIS) - before) < 1
    # One entry an epoch, for every term; an epoch without validation has none (nan).
    assert {name: len(values) for name, values in model.history_.items()} == dict.fromkeys(
        model.history_, 4
    )


def test_partition_can_change_between_passes():
    model = vae(partition="exact", max_iter=2)
    for partition in ("exact", "persistent", "aggregate", "contrastive", "exact"):
        model.set_params(partition=partition).partial_fit(X_IRIS)
    assert len(model.history_["objective"]) == 5
    assert np.isfinite(model.score(X_IRIS))


def test_fit_after_partial_fit_starts_again():
    model = vae().partial_fit(X_IRIS).fit(X_IRIS)
    assert_array_equal(model.score_samples(X_IRIS), vae().fit(X_IRIS).score_samples(X_IRIS))
    assert model.n_iter_ == 3


def test_learning_rate_may_change_between_calls():
    model = vae().partial_fit(X_IRIS)
    before = model.score_samples(X_IRIS)
    model.set_params(learning_rate=1e-12).partial_fit(X_IRIS)
    assert_allclose(model.score_samples(X_IRIS), before, atol=1e-4)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_partial_fit_with_every_partition(partition):
    model = vae(partition=partition)
    for _ in range(3):
        model.partial_fit(X_IRIS)
    assert np.isfinite(model.score(X_IRIS))


# --- reports --------------------------------------------------------------------------------------


def test_repr_is_short():
    assert repr(EnergyVAE()) == "EnergyVAE()"
    assert re.fullmatch(r"EnergyVAE\(n_components=3\)", repr(EnergyVAE(3)))


MEMORY = """
import resource, sys
import numpy as np, torch
from sklearn import config_context
from skevae import EnergyVAE

torch.set_num_threads(1)
X = np.random.RandomState(0).uniform(size=(2000, 300))
model = EnergyVAE(8, hidden_layer_sizes=(256,), prior="normal", max_iter=1, random_state=0,
                  likelihood=sys.argv[1]).fit(X[:200])
model.log_likelihood(X[:2], n_draws=50)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with config_context(working_memory=32):
    model.log_likelihood(X, n_draws=50)
    model.transform(X)
    model.reconstruct(X)
    model.sample(2000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("likelihood", ["gaussian-rowwise", "bernoulli"])
def test_memory_follows_the_setting(likelihood):
    # All at once would take 2000 x 50 x 600 values, half a gibibyte in float64.
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, likelihood],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    mebibytes = float(run.stdout)
    # The setting, X and results of its size a few times, and what an allocator keeps.
    assert mebibytes < 32 + 8 * 2000 * 300 * 8 / 2**20 + 32


@pytest.mark.slow
def test_digits_end_to_end():
    X = load_digits().data
    model = EnergyVAE(8, max_iter=8, random_state=0, n_score_draws=20).fit(X)
    scaler = StandardScaler().fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    error = ((model.reconstruct(X) - X) ** 2 / scaler.scale_**2).mean()
    assert error < 0.9
