"""Diagnostics of Markov chains: convergence and effective sample size."""

from __future__ import annotations

import torch
from torch import Tensor


def _split(samples: Tensor) -> Tensor:
    """Split each chain into two halves: (n_steps, n_chains, D) -> (n_steps // 2, 2 n_chains, D)."""
    half = samples.shape[0] // 2
    return torch.cat([samples[:half], samples[samples.shape[0] - half :]], dim=1)


def split_r_hat(samples: Tensor) -> Tensor:
    r"""Potential scale reduction of half chains (Gelman et al. 2013, section 11.4).

    .. math::
        \hat R = \sqrt{\frac{(n-1)/n \, W + B / n}{W}}

    where W is the mean variance within half chains and B / n the variance of their means. Above
    about 1.05, the chains have not mixed.

    Parameters
    ----------
    samples : Tensor of shape (n_steps, n_chains, D)
        At least 4 steps.

    Returns
    -------
    Tensor of shape (D,)
        Infinity if all chains are constant but differ, 1 if they are constant and equal.
    """
    halves = _split(samples)
    n = halves.shape[0]
    within = halves.var(0).mean(0)
    between = halves.mean(0).var(0)
    r_hat = ((n - 1) / n + between / within).sqrt()
    return torch.where((within == 0) & (between == 0), torch.ones_like(r_hat), r_hat)


def chain_effective_sample_size(samples: Tensor) -> Tensor:
    r"""Number of independent draws whose mean would be as precise.

    .. math::
        \frac{m n}{1 + 2 \sum_t \rho_t}

    over m half chains of length n, with the autocorrelations of Gelman et al. (2013, section 11.5).
    The sum ends where sums of neighbouring pairs become negative or increase (Geyer 1992).

    Parameters
    ----------
    samples : Tensor of shape (n_steps, n_chains, D)
        At least 4 steps.

    Returns
    -------
    Tensor of shape (D,)
        At most n_steps * n_chains; nan if all chains are constant.
    """
    halves = _split(samples)
    n, m, _ = halves.shape
    centred = halves - halves.mean(0)
    # Autocovariances of all lags at once, from the spectrum of the padded chains.
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(1) / n
    within = halves.var(0).mean(0)
    pooled = (n - 1) / n * within + halves.mean(0).var(0)
    rho = 1 - (within - covariance * n / (n - 1)) / pooled
    rho[0] = 1.0
    pairs = rho[: n - n % 2].reshape(n // 2, 2, -1).sum(1)
    positive = (pairs > 0).to(rho.dtype).cumprod(0)
    falling = pairs.cummin(0).values * positive
    time = (2 * falling.sum(0) - 1).clamp(min=1.0)
    return torch.where(pooled > 0, m * n / time, torch.full_like(time, torch.nan))
