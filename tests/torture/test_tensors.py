"""Torch tensors as X: they work like arrays of the same numbers, or are refused with a remedy."""

import numpy as np
import pytest
import torch

from skevae import EnergyImputer, EnergyOutlierDetector, EnergyVAE, GaussianBernoulliRBMPrior

ROWS = np.random.RandomState(0).normal(size=(40, 3)).round(1)
TENSOR = torch.from_numpy(ROWS)
SMALL = {"n_components": 2, "max_iter": 1, "random_state": 0}

TAKEN = {
    "float64": TENSOR,
    "float32": TENSOR.float(),
    "float16": TENSOR.half(),
    "bfloat16": TENSOR.bfloat16(),
    "float8": TENSOR.to(torch.float8_e4m3fn),
    "transposed": TENSOR.T.clone().T,
    "a view": torch.cat([TENSOR, TENSOR])[::2],
    "with a gradient": TENSOR.clone().requires_grad_(),
    "bfloat16 with a gradient": TENSOR.bfloat16().requires_grad_(),
    "of a graph": TENSOR.clone().requires_grad_() * 2,
    "a parameter": torch.nn.Parameter(TENSOR),
    "negated by a flag": torch.view_as_complex(torch.stack([TENSOR, -TENSOR], -1)).conj().imag,
}
REFUSED = {
    "sparse": TENSOR.to_sparse(),
    "without values": TENSOR.to("meta"),
}


def vae():
    return EnergyVAE(**SMALL, hidden_layer_sizes=(4,), prior="normal", n_score_draws=20)


def rbm():
    return GaussianBernoulliRBMPrior(**SMALL)


@pytest.mark.parametrize("maker", [vae, rbm])
@pytest.mark.parametrize("X", TAKEN.values(), ids=TAKEN)
def test_taken_as_the_array_of_its_numbers(X, maker):
    array = X.detach().resolve_neg().double().numpy() if X.dtype != torch.float32 else X.numpy()
    model, expected = maker().fit(X), maker().fit(array)
    np.testing.assert_allclose(
        model.score_samples(X), expected.score_samples(array), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("maker", [vae, rbm])
@pytest.mark.parametrize("X", REFUSED.values(), ids=REFUSED)
def test_refused_with_a_remedy(X, maker):
    with pytest.raises(TypeError, match="X is a torch tensor .*Pass a dense one"):
        maker().fit(X)
    with pytest.raises(TypeError, match="X is a torch tensor .*Pass a dense one"):
        maker().fit(ROWS).score(X)


def test_weights_latents_and_single_rows():
    weight = torch.ones(len(ROWS), requires_grad=True)
    model = vae().fit(TENSOR, sample_weight=weight)
    assert model.score(TENSOR, sample_weight=weight) == pytest.approx(model.score(ROWS))
    latents = torch.zeros(2, 2, requires_grad=True)
    assert np.isfinite(model.inverse_transform(latents)).all()
    given = torch.tensor([1.0, np.nan, 0.0], requires_grad=True)
    assert model.sample(2, given=given).shape == (2, 3)
    ends = TENSOR.clone().requires_grad_()
    assert np.isfinite(model.interpolate(ends[0], ends[1]).rows).all()
    assert np.isfinite(EnergyImputer(vae()).fit(ends).transform(ends)).all()
    assert set(EnergyOutlierDetector(vae()).fit(ends).predict(ends)) <= {-1, 1}
