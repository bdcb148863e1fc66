"""Laws of the probabilities of integers: masses of unit intervals under a mixture."""

import mpmath
import pytest
import torch

from skevae.likelihoods.integer import NARROW, BinnedMixture, log_interval_mass

HALF_WIDTHS = [1e-6, 1e-3, 0.49 * NARROW, 0.51 * NARROW, 0.1, 1.0, 5.0]
CENTRES = [0.0, 0.3, -1.0, 4.0, -9.0, 30.0]


def exact_log_mass(centre, half_width):
    with mpmath.workdps(400):
        low, high = (mpmath.mpf(centre) + side * mpmath.mpf(half_width) for side in (-1, 1))
        if low < 0:  # in the upper tail, where no digits are lost
            low, high = -high, -low
        return float(
            mpmath.log((mpmath.erfc(low / mpmath.sqrt(2)) - mpmath.erfc(high / mpmath.sqrt(2))) / 2)
        )


@pytest.mark.parametrize("half_width", HALF_WIDTHS)
def test_mass_of_an_interval(half_width):
    centres = torch.tensor(CENTRES, dtype=torch.float64)
    found = log_interval_mass(centres, torch.full_like(centres, half_width))
    for value, centre in zip(found.tolist(), CENTRES, strict=True):
        # Of narrow intervals it is the width times the density at the centre.
        curvature = half_width**2 * abs(centre**2 - 1) / 6 if 2 * half_width < NARROW else 0.0
        expected = exact_log_mass(centre, half_width)
        assert value == pytest.approx(expected, abs=1e-9 + 1.1 * curvature, rel=1e-12)


def test_gradients_match_finite_differences():
    grid = torch.cartesian_prod(torch.tensor([-3.0, 0.2, 8.0]), torch.tensor([1e-3, 0.3, 2.0]))
    centre, half_width = (grid[:, j].double().requires_grad_() for j in (0, 1))
    assert torch.autograd.gradcheck(log_interval_mass, (centre, half_width), atol=1e-4)


@pytest.mark.parametrize("scale", [0.3, 3.0, 300.0])
def test_probabilities_of_all_integers_sum_to_one(scale):
    # Standardised by the scale: the bins of the last are narrow.
    likelihood = BinnedMixture(torch.tensor([0.5 / scale]), n_components=3).double()
    outputs = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    largest = int(15 * scale + 20)
    x = torch.arange(-largest, largest + 1, dtype=torch.float64)[:, None] / scale
    mass = likelihood.feature_log_density(x, outputs.expand(len(x), -1)).exp().sum()
    assert mass.item() == pytest.approx(1.0, abs=1e-6)
