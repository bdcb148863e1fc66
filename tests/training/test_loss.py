"""Laws of the training loss."""

import pytest
import torch
from bound_models import (
    CLOSED_FORMS,
    N_FEATURES,
    D,
    each_objective,
    make_model,
    normals,
)

from skevae.partitions import PARTITIONS
from skevae.posteriors import POSTERIORS
from skevae.training import OBJECTIVES
from skevae.training.loss import TrainingLoss
from skevae.training.objectives import negative_bound
from skevae.utils.random import make_generator

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


def training_loss(model, *, seed=0, objective="elbo", **changes):
    settings = {"n_draws": 4, "kl_warmup": 0.0, **changes}
    partition = PARTITIONS["exact"](model.density, make_generator(0))
    return TrainingLoss(
        model, partition, OBJECTIVES[objective], generator=make_generator(seed), **settings
    )


@each_objective
def test_training_loss_is_the_bound_of_fresh_draws(objective):
    model, x = make_model(), normals(5, N_FEATURES)
    loss, terms = training_loss(model, objective=objective)(x, 0.0)
    draws = model(x, normals(4, 5, D, seed=0))
    expected, expected_terms = negative_bound(
        draws, model.density.log_partition(), OBJECTIVES[objective]
    )
    torch.testing.assert_close(loss, expected)
    assert terms == expected_terms


@pytest.mark.parametrize("kl_warmup", [0.0, 0.5])
def test_training_loss_has_the_gradient_of_its_objective(kl_warmup):
    model, x = make_model(), normals(5, N_FEATURES)
    encoder = list(model.encoder.parameters())
    gradients = {}
    for name in ("iwae", "iwae-dreg"):
        loss, _ = training_loss(model, objective=name, kl_warmup=kl_warmup)(x, 0.2)
        gradients[name] = torch.autograd.grad(loss, encoder)
    weight = 0.4 if kl_warmup else 1.0
    objective = OBJECTIVES["iwae-dreg"]
    draws = model(x, normals(4, 5, D, seed=0))
    log_z = model.density.log_partition()
    draws = objective.reparametrize(draws, model.posterior, weight)
    loss, _ = negative_bound(draws, log_z, objective, weight)
    torch.testing.assert_close(torch.autograd.grad(loss, encoder), gradients["iwae-dreg"])
    for plain, twice in zip(gradients["iwae"], gradients["iwae-dreg"], strict=True):
        assert (plain - twice).abs().max() > 1e-4


@each_objective
def test_training_loss_of_a_frozen_encoder_trains_the_rest(objective):
    model, x = make_model("fixed"), normals(5, N_FEATURES)
    model.encoder.requires_grad_(False)
    loss, _ = training_loss(model, objective=objective)(x, 0.0)
    loss.backward()
    assert all(p.grad.abs().max() > 0 for p in model.decoder.parameters())


def test_training_loss_draws_anew_at_each_visit():
    loss, x = training_loss(make_model()), normals(5, N_FEATURES)
    assert loss(x, 0.0)[0] != loss(x, 0.0)[0]


@pytest.mark.parametrize(
    "progress, weight", [(0.0, 0.0), (0.1, 0.25), (0.3, 0.75), (0.4, 1.0), (0.9, 1.0)]
)
def test_weight_rises_linearly_from_zero_to_one_over_the_warm_up(progress, weight):
    model, x = make_model(), normals(5, N_FEATURES)
    loss, _ = training_loss(model, kl_warmup=0.4)(x, progress)
    draws = model(x, normals(4, 5, D, seed=0))
    log_z = model.density.log_partition()
    expected, _ = negative_bound(draws, log_z, OBJECTIVES["elbo"], weight)
    torch.testing.assert_close(loss, expected)


def test_without_warm_up_the_weight_is_one_from_the_start():
    model, x = make_model(), normals(5, N_FEATURES)
    start, end = (training_loss(model)(x, progress)[0] for progress in (0.0, 1.0))
    assert start == end


def test_every_visit_draws_binary_rows_of_the_right_mean(assert_mean):
    model = make_model(likelihood="bernoulli")
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64).expand(50, 3)
    loss = training_loss(model)
    for _ in range(100):
        loss(x, 0.0)
    rows = torch.cat(seen)
    assert ((rows == 0) | (rows == 1)).all()
    assert_mean(rows, [0.0, 0.3, 1.0])


def test_rows_are_left_alone_without_rebinarisation():
    model, x, seen = make_model(), normals(5, N_FEATURES), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    training_loss(model)(x, 0.0)
    assert torch.equal(seen[0], x)


@pytest.mark.parametrize("posterior", [name for name in POSTERIORS if name not in CLOSED_FORMS])
def test_doubly_reparametrised_gradient_says_which_posteriors_it_needs(posterior):
    with pytest.raises(ValueError, match="posterior='diagonal' or 'fixed'"):
        training_loss(make_model(posterior), objective="iwae-dreg")
