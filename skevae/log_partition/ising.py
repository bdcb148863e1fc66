r"""The distribution of the hidden units, an Ising model over {0,1}^H: exact ln Z and samples.

.. math::
    p(h) = \exp(a \cdot h + \tfrac12 h^\top J h) / Z_h

The sum over 2^H configurations is one matrix product. Split h into three blocks A, B, C of about
H/3 units. Each term of the exponent involves at most two blocks. With the tables of exponentials
M_AB, M_BC, M_AC, each about 2^(H/3) square,

.. math::
    Z_h = \sum_{A,C} M_{AC} \circ (M_{AB} \, M_{BC})

(the clique-counting idea of Williams 2004). This takes one multiply-add for each configuration and
only 3 * 2^(2H/3) exponentials. The gradient consists of the first two moments of h and takes two
more products. The same tables give independent samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skevae.log_partition.blocks import block_sizes, configurations
from skevae.log_partition.inversion import invert, invert_rows
from skevae.utils.ranks import ALONE, Ranks

# Elements of the largest temporary table. 2^22 holds every table up to H = 33 in one strip. Larger
# models are processed in strips of block A, which bounds memory at three tables of block B x C.
STRIP_ELEMENTS = 2**22


class _Strip(NamedTuple):
    """The part of the tables that belongs to some configurations of block A."""

    rows: slice
    exp_ab: Tensor  # (rows, 2^B), exponentials of the A-B table minus its row maxima
    log_scale: Tensor  # (rows, 2^C), A-C terms plus the maxima subtracted from both other tables
    shift: Tensor  # scalar, the largest of log_scale
    scale: Tensor  # (rows, 2^C), exp(log_scale - shift)
    product: Tensor  # (rows, 2^C), the matrix product: sum over B


class _Repair(NamedTuple):
    """Pairs (A, C) of one strip whose sum over B is taken in log space."""

    a: Tensor  # (n_pairs,), rows of the whole A block
    c: Tensor  # (n_pairs,)


class IsingModel:
    """Exact log-partition function, moments and samples of p(h), by three blocks.

    Parameters
    ----------
    bias : Tensor of shape (H,)
        a.
    coupling : Tensor of shape (H, H)
        J, symmetric. Its diagonal also contributes, since h_i^2 = h_i.
    checked : bool
        Whether underflow is detected and repaired. The check reads a value, so the host waits for a
        GPU; on the CPU it costs nothing and is always made. Without the check, an underflow that
        could matter makes ``log_partition`` nan.
    ranks : Ranks
        Processes among which the rows of the tables (configurations of block A) are divided. All
        of them must call the same methods, except `sample`, which needs all rows.

    Attributes
    ----------
    log_partition : Tensor, scalar
        ln Z_h.

    Notes
    -----
    Row maxima of ln M_AB, column maxima of ln M_BC and the maximum of the terms that are added back
    are subtracted before exponentiation. Terms can still underflow for a pair (A, C) whose best B
    is the best neither for A nor for C. The loss of each term is at most the smallest normal
    number, relative to the largest scale. The result is therefore exact if the total is well above
    2^H times this number, as with ordinary couplings. Otherwise, all pairs for which a loss could
    matter are found, and their sums over B are computed in log space. The result is then also exact
    for extreme couplings, at the cost of enumeration in the worst case.
    """

    def __init__(
        self, bias: Tensor, coupling: Tensor, *, checked: bool = True, ranks: Ranks = ALONE
    ) -> None:
        self._ranks = ranks
        self.n_units = bias.numel()
        size_a, size_b, size_c = block_sizes(self.n_units)
        self._a = slice(0, size_a)
        self._b = slice(size_a, size_a + size_b)
        self._c = slice(size_a + size_b, self.n_units)
        self._dtype, self._device = bias.dtype, bias.device
        self._checked = checked or not reading_waits(bias.device)
        self._coupling = coupling.detach()
        # a.h + h'Jh/2 = h'Kh, since h_i^2 = h_i.
        self._form = (0.5 * self._coupling).diagonal_scatter(
            0.5 * self._coupling.diagonal() + bias.detach()
        )

        h_a, h_b, h_c = (self._rows(size) for size in (size_a, size_b, size_c))
        self._h_a, self._h_b, self._h_c = h_a, h_b, h_c
        self._within_a = self._within(h_a, self._a)
        self._within_b = self._within(h_b, self._b)
        self._within_c = self._within(h_c, self._c)
        self._log_bc = h_b @ self._coupling[self._b, self._c] @ h_c.mT
        self._max_bc = self._log_bc.amax(0)
        self._exp_bc = (self._log_bc - self._max_bc).exp()
        self._strip_rows = max(1, min(2**size_a, STRIP_ELEMENTS >> max(size_b, size_c)))

        info = torch.finfo(self._dtype)
        # ln of the maximum loss of one pair by underflow, on the scale of that pair.
        self._log_loss = size_b * math.log(2.0) + math.log(info.tiny)
        # Losses are harmless if all 2^(A+C) of them together stay below the rounding error.
        self._log_tolerance = math.log(info.eps) - (size_a + size_c) * math.log(2.0)
        # A total above its largest scale plus this is exact: half of the tolerance is for the
        # products and half for the scales.
        self._log_floor = self._log_loss - self._log_tolerance + math.log(2.0)
        self._kept: _Strip | None = None
        self.log_partition = self._sum_of_ranks(self._log_partition())

    def _rows(self, size: int) -> Tensor:
        return configurations(size, self._dtype, self._device)

    def _within(self, h: Tensor, block: slice) -> Tensor:
        """Terms of the exponent within one block: (2^size,)."""
        return ((h @ self._form[block, block]) * h).sum(1)

    def _log_ab(self, rows: slice | Tensor) -> Tensor:
        """ln M_AB, which includes the terms within block B: (rows, 2^B)."""
        cross = self._h_a[rows] @ self._coupling[self._a, self._b] @ self._h_b.mT
        return cross + self._within_b

    def _log_ac(self, rows: slice) -> Tensor:
        """ln M_AC, which includes the terms within A and within C: (rows, 2^C)."""
        cross = self._h_a[rows] @ self._coupling[self._a, self._c] @ self._h_c.mT
        return cross + self._within_a[rows, None] + self._within_c

    def _strips(self) -> Iterator[_Strip]:
        if self._kept is not None:
            yield self._kept
            return
        own = self._ranks.part(self._h_a.shape[0])
        for start in range(own.start, own.stop, self._strip_rows):
            rows = slice(start, min(start + self._strip_rows, own.stop))
            log_ab = self._log_ab(rows)
            max_ab = log_ab.amax(1, keepdim=True)
            exp_ab = (log_ab - max_ab).exp_()
            log_scale = self._log_ac(rows).add_(max_ab).add_(self._max_bc)
            shift = log_scale.amax()
            scale = (log_scale - shift).exp_()
            strip = _Strip(rows, exp_ab, log_scale, shift, scale, exp_ab @ self._exp_bc)
            if rows == own:
                self._kept = strip
            yield strip

    def _log_weights(self, strip: _Strip, log_total: Tensor) -> tuple[Tensor, _Repair | None]:
        """ln sum_B of each pair (A, C): (rows, 2^C), exact up to rounding relative to the total."""
        log_weights = strip.product.log().add_(strip.log_scale)
        unsafe = strip.log_scale > log_total + self._log_tolerance - self._log_loss
        unsafe &= strip.product < math.exp(self._log_loss) / torch.finfo(self._dtype).eps
        row, c = unsafe.nonzero(as_tuple=True)
        if row.numel() == 0:
            return log_weights, None
        repair = _Repair(row + strip.rows.start, c)
        log_ac = strip.log_scale - self._max_bc - self._log_ab(strip.rows).amax(1, keepdim=True)
        sums = [log_b.logsumexp(1) for log_b in self._log_conditionals(repair)]
        log_weights[row, c] = torch.cat(sums) + log_ac[row, c]
        return log_weights, repair

    def _log_conditionals(self, pairs: _Repair) -> Iterator[Tensor]:
        """Unnormalised ln p(B | A, C), in chunks of pairs: (n, 2^B)."""
        step = max(1, STRIP_ELEMENTS // self._h_b.shape[0])
        for a, c in zip(pairs.a.split(step), pairs.c.split(step), strict=True):
            yield self._log_ab(a) + self._log_bc[:, c].mT

    def _log_partition(self) -> Tensor:
        # The running total is a lower bound of the final one, so this check is conservative.
        total = self._coupling.new_full((), -math.inf)
        for strip in self._strips():
            seen = strip.shift + torch.dot(strip.scale.flatten(), strip.product.flatten()).log()
            if not self._is_safe(strip, torch.logaddexp(total, seen)):
                seen = (strip.product.log() + strip.log_scale).flatten().logsumexp(0)
                log_weights, _ = self._log_weights(strip, torch.logaddexp(total, seen))
                seen = log_weights.flatten().logsumexp(0)
            total = torch.logaddexp(total, seen)
            if self._is_blind():
                total = total.masked_fill(~self._stands_clear(strip, total), math.nan)
        return total

    def _sum_of_ranks(self, log_total: Tensor) -> Tensor:
        """ln of the sum of the totals of all ranks."""
        if self._ranks.size == 1:
            return log_total
        totals = log_total.new_zeros(self._ranks.size)
        totals[self._ranks.rank] = log_total
        self._ranks.add_up(totals)
        return totals.logsumexp(0)

    def clearance(self) -> Tensor:
        """Remaining fraction of the range of exponentials for the total, scalar.

        It is about 1 for weak couplings; below 0, sums may have to be computed in log space.
        """
        heights = [self.log_partition - strip.shift for strip in self._strips()]
        return 1 - torch.stack(heights).amin() / self._log_floor

    def _stands_clear(self, strip: _Strip, log_total: Tensor) -> Tensor:
        return log_total > strip.shift + self._log_floor

    def _is_blind(self) -> bool:
        """Whether values must not be read: if unchecked, or while a CUDA graph is recorded."""
        return not self._checked or _is_recorded()

    def _is_safe(self, strip: _Strip, log_total: Tensor) -> bool:
        """Whether no underflow in this strip can matter to the total."""
        # If this assumption is wrong, `_log_partition` makes the total nan.
        return self._is_blind() or bool(self._stands_clear(strip, log_total))

    def _probabilities(self, strip: _Strip) -> tuple[Tensor, Tensor, _Repair | None]:
        """P(A, C), its factor without ``product``, and the pairs where this does not apply."""
        if self._is_safe(strip, self.log_partition):
            scale = strip.scale * (strip.shift - self.log_partition).exp()
            return scale * strip.product, scale, None
        log_weights, repair = self._log_weights(strip, self.log_partition)
        scale = (strip.log_scale - self.log_partition).exp_()
        if repair is not None:
            scale[repair.a - strip.rows.start, repair.c] = 0
        return (log_weights - self.log_partition).exp_(), scale, repair

    def moments(self) -> tuple[Tensor, Tensor]:
        """Exact first two moments.

        Returns
        -------
        mean : Tensor of shape (H,)
            E[h].
        second : Tensor of shape (H, H)
            E[h h'], whose diagonal is E[h].
        """
        a, b, c = self._a, self._b, self._c
        h_b, h_c = self._h_b, self._h_c
        second = torch.zeros_like(self._coupling)
        p_bc = torch.zeros_like(self._exp_bc)
        p_b = self._within_b.new_zeros(h_b.shape[0])
        p_c = self._within_c.new_zeros(h_c.shape[0])
        for strip in self._strips():
            p_ac, scale, repair = self._probabilities(strip)
            p_ab = (scale @ self._exp_bc.mT).mul_(strip.exp_ab)
            p_bc += (strip.exp_ab.mT @ scale).mul_(self._exp_bc)
            if repair is not None:
                self._add_repaired(strip, repair, p_ac, p_ab, p_bc)
            h_a, p_a = self._h_a[strip.rows], p_ac.sum(1, keepdim=True)
            p_b += p_ab.sum(0)
            p_c += p_ac.sum(0)
            second[a] += h_a.mT @ torch.cat([h_a * p_a, p_ab @ h_b, p_ac @ h_c], dim=1)
        second[b, b] = h_b.mT @ (h_b * p_b[:, None])
        second[b, c] = h_b.mT @ p_bc @ h_c
        second[c, c] = h_c.mT @ (h_c * p_c[:, None])
        self._ranks.add_up(second)
        second = second.triu() + second.triu(1).mT
        return second.diagonal().clone(), second

    def _add_repaired(
        self, strip: _Strip, repair: _Repair, p_ac: Tensor, p_ab: Tensor, p_bc: Tensor
    ) -> None:
        """Add pairs computed in log space to the joint tables of (A, B) and (B, C), in place."""
        row = repair.a - strip.rows.start
        done = 0
        for log_b in self._log_conditionals(repair):
            pairs = slice(done, done + log_b.shape[0])
            joint = log_b.softmax(1) * p_ac[row[pairs], repair.c[pairs]][:, None]
            p_ab.index_add_(0, row[pairs], joint)
            p_bc.index_add_(1, repair.c[pairs], joint.mT)
            done = pairs.stop

    def sample(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Draw independent configurations: (n_samples, H).

        (A, C) is drawn from its table by inversion, then B given (A, C).
        """
        tables = [self._log_weights(strip, self.log_partition)[0] for strip in self._strips()]
        # Always float64: a float32 cumulative sum of 2^20 entries loses configurations.
        log_ac = torch.cat(tables).flatten().double()
        pair = invert((log_ac - log_ac.max()).exp_().cumsum(0), n_samples, generator)
        n_c = self._h_c.shape[0]
        pairs = _Repair(pair.div(n_c, rounding_mode="floor"), pair % n_c)
        b = torch.cat(
            [invert_rows(log_b, generator) for log_b in self._log_conditionals(pairs)]
            or [pair.new_empty(0)]
        )
        return torch.cat([self._h_a[pairs.a], self._h_b[b], self._h_c[pairs.c]], dim=1)


def reading_waits(device: torch.device) -> bool:
    """Whether reading a value makes the host wait for the device."""
    return device.type != "cpu"


def _is_recorded() -> bool:
    """Whether a CUDA graph is being recorded, so that no value can be read."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
