"""Randomness as an argument: RandomState -> seed -> torch.Generator, and nothing global.

The global generators of NumPy and torch are never read and never advanced, so a call into this
package cannot change what another library draws next. The one exception is `lent_globals`, for
networks that can only draw from torch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import qmc
from sklearn.utils import check_random_state

from skevae.utils.forks import ProcessLock

SEED_BOUND = 2**31 - 1

# The most dimensions that Sobol points are known for.
MAX_DIMENSIONS = 21201


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Turn scikit-learn's ``random_state`` into one integer seed.

    ``None`` takes fresh entropy from the operating system. It does not draw from NumPy's global
    generator, as `sklearn.utils.check_random_state` would: that would change its state.
    """
    if random_state is None:
        random_state = np.random.RandomState(np.random.MT19937())
    return int(check_random_state(random_state).randint(SEED_BOUND))


def seed_of_pass(seed: int, n_passes: int) -> int:
    """Derive the seed of one of several passes from that of the estimator.

    An integer ``random_state`` is the same at each call; without this every pass of `partial_fit`
    would see the rows in the same order, under the same noise.
    """
    if n_passes == 0:
        return seed
    word = np.random.SeedSequence([seed, n_passes]).generate_state(1, dtype=np.uint32)[0]
    return int(word) % SEED_BOUND


def spawn(seed: int, n_streams: int) -> list[int]:
    """Split one seed into independent seeds, one for each use that must not disturb the others."""
    state = np.random.SeedSequence(seed).generate_state(n_streams, dtype=np.uint32)
    return [int(word) % SEED_BOUND for word in state]


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on ``device``, started from ``seed``."""
    return torch.Generator(device=device).manual_seed(seed)


# Held while torch's global generators are lent out, so that threads take turns.
_GLOBAL_GENERATORS = ProcessLock()


@contextmanager
def lent_globals(generator: torch.Generator) -> Iterator[torch.Generator]:
    """Let code that can only draw from torch's global generator draw from ``generator``.

    Layers of a user's network, and zuko's, are initialised from the global generator, and dropout
    draws from it. While the context lasts it holds the state of ``generator``, which advances with
    it; then the former state is put back. Threads that use this context take turns. Draws from the
    global generator that another thread makes meanwhile are not protected.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU or a CUDA device; it is lent to the global generator of that device.

    Yields
    ------
    torch.Generator
        The global generator, whose state is the present one while the context lasts.
    """
    borrower = torch.default_generator
    if generator.device.type == "cuda":
        borrower = torch.cuda.default_generators[generator.device.index or 0]
    with _GLOBAL_GENERATORS:
        before = borrower.get_state()
        borrower.set_state(generator.get_state())
        try:
            yield borrower
        finally:
            generator.set_state(borrower.get_state())
            borrower.set_state(before)


def standard_normal(
    shape: tuple[int, ...], generator: torch.Generator, like: torch.Tensor
) -> torch.Tensor:
    """Draw N(0, 1) noise of ``shape`` in the dtype and on the device of ``like``."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def binary(probability: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw ones with these probabilities, zeros else, in their shape and dtype."""
    uniform = torch.rand(
        probability.shape,
        generator=generator,
        dtype=probability.dtype,
        device=probability.device,
    )
    # Not torch.bernoulli, which is slower on a CPU, and raises where a diverging run has made a
    # probability nan.
    return (uniform < probability).to(probability.dtype)


def quasi_normal(n_draws: int, n_dimensions: int, seed: int) -> torch.Tensor:
    """Draw scrambled Sobol points, mapped to N(0, I): a block of noise that is spread evenly.

    Each point is distributed as N(0, I), so averages over the block are unbiased; together they
    fill the space, so averages vary less than over independent points (Owen 1997).

    Parameters
    ----------
    n_draws, n_dimensions : int
        At most 21201 dimensions.
    seed : int

    Returns
    -------
    torch.Tensor of shape (n_draws, n_dimensions)
        float64, on the CPU.
    """
    # The sequence is balanced at powers of two; the first points of a balanced set serve best.
    bits = 30
    sobol = qmc.Sobol(n_dimensions, bits=bits, rng=np.random.default_rng(seed))
    uniform = sobol.random_base2(math.ceil(math.log2(max(n_draws, 1))))[:n_draws]
    # Points lie on a grid of cells of width 2^-bits; its centres never touch 0 or 1.
    return torch.from_numpy(ndtri(uniform + 0.5 ** (bits + 1)))


def independent_normal(n_draws: int, n_dimensions: int, seed: int) -> torch.Tensor:
    """Draw independent N(0, I) points, as `quasi_normal` draws even ones."""
    generator = make_generator(seed)
    return torch.randn((n_draws, n_dimensions), generator=generator, dtype=torch.float64)
