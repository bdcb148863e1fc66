"""Laws of the module that composes encoder, posterior, density, decoder and likelihood."""

import pytest
import torch
from bound_models import (
    N_FEATURES,
    D,
    each_posterior,
    make_model,
    normals,
)

pytestmark = pytest.mark.usefixtures("global_rng_untouched")


@each_posterior
def test_shared_noise_gives_each_row_the_same_draws_as_alone(posterior):
    model, x, noise = make_model(posterior), normals(5, N_FEATURES), normals(4, 1, D)
    together, alone = model(x, noise), model(x[2:3], noise)
    for name in ("log_likelihood", "energy", "log_posterior"):
        part, truth = getattr(together, name)[:, 2:3], getattr(alone, name)
        torch.testing.assert_close(part, truth, rtol=1e-12, atol=1e-12)
