"""Randomness as an argument: RandomState -> seed -> torch.Generator, and nothing global.

The global generators of NumPy and torch are never used, so a call of this package cannot change the
random numbers of another library. The only exception is `lent_globals`, for networks that can only
draw from torch's global generator.
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

# Maximum dimension of Sobol points.
MAX_DIMENSIONS = 21201


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Turn scikit-learn's ``random_state`` into one integer seed.

    ``None`` uses entropy from the operating system. Unlike `sklearn.utils.check_random_state`, it
    does not draw from NumPy's global generator, which would change its state.
    """
    if random_state is None:
        random_state = np.random.RandomState(np.random.MT19937())
    return int(check_random_state(random_state).randint(SEED_BOUND))


def seed_of_pass(seed: int, n_passes: int) -> int:
    """Derive the seed of one of several passes from that of the estimator.

    An integer ``random_state`` is the same in each call; without this, every pass of `partial_fit`
    would use the same order of rows and the same noise.
    """
    if n_passes == 0:
        return seed
    word = np.random.SeedSequence([seed, n_passes]).generate_state(1, dtype=np.uint32)[0]
    return int(word) % SEED_BOUND


def spawn(seed: int, n_streams: int) -> list[int]:
    """Derive independent seeds from one seed, one for each separate use."""
    state = np.random.SeedSequence(seed).generate_state(n_streams, dtype=np.uint32)
    return [int(word) % SEED_BOUND for word in state]


def make_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on ``device`` with the given ``seed``."""
    return torch.Generator(device=device).manual_seed(seed)


# Held while torch's global generators are in use, so that threads run one after the other.
_GLOBAL_GENERATORS = ProcessLock()


@contextmanager
def lent_globals(generator: torch.Generator) -> Iterator[torch.Generator]:
    """Let code that draws from torch's global generator draw from ``generator``.

    Layers of custom networks and of zuko are initialised from the global generator, and dropout
    draws from it. Within the context, the global generator has the state of ``generator``, which is
    then advanced accordingly, and the former state is restored. Threads use this context one after
    the other. Draws from the global generator by other threads at the same time are not protected.

    Parameters
    ----------
    generator : torch.Generator
        On the CPU or a CUDA device; it replaces the global generator of that device.

    Yields
    ------
    torch.Generator
        The global generator, which has the current state within the context.
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
    """Draw ones with these probabilities, else zeros, in their shape and dtype."""
    uniform = torch.rand(
        probability.shape,
        generator=generator,
        dtype=probability.dtype,
        device=probability.device,
    )
    # Not torch.bernoulli, which is slower on a CPU, and raises if a probability is nan in a
    # diverging run.
    return uniform.lt_(probability)


def quasi_normal(n_draws: int, n_dimensions: int, seed: int) -> torch.Tensor:
    """Draw scrambled Sobol points, mapped to N(0, I): a block of evenly distributed noise.

    Each point has the distribution N(0, I), so averages over the block are unbiased. Together the
    points are spread evenly, so averages vary less than over independent points (Owen 1997).

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
    # The sequence is balanced for powers of two; use the first points of a balanced set.
    bits = 30
    sobol = qmc.Sobol(n_dimensions, bits=bits, rng=np.random.default_rng(seed))
    uniform = sobol.random_base2(math.ceil(math.log2(max(n_draws, 1))))[:n_draws]
    # Points are at the centres of cells of width 2^-bits, which are never 0 or 1.
    return torch.from_numpy(ndtri(uniform + 0.5 ** (bits + 1)))


def independent_normal(n_draws: int, n_dimensions: int, seed: int) -> torch.Tensor:
    """Draw independent N(0, I) points, in the format of `quasi_normal`."""
    generator = make_generator(seed)
    return torch.randn((n_draws, n_dimensions), generator=generator, dtype=torch.float64)
