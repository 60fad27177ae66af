"""How are uploaded values rounded?"""

from abc import abstractmethod
from functools import cache

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part
from sasg.cluster.accounting.value_codes import LevelCode, TwoMagnitudeCode, ValueCode
from sasg.errors import UserError
from sasg.kernels.rows import of_each


class Quantiser(Part):
    """Rounds each worker's values to few levels."""

    extra_columns = ("side_bits",)

    code: ValueCode
    """How the rounded values go over a link."""

    def expect(self, sizes: tuple[int, ...]) -> None:
        """Told after set-up where values come in segments: so many of each, one after another."""

    @abstractmethod
    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded values [W, K] of `values` [W, K], and side scalars [W, s] that go along."""


class LogUniformGroups(Quantiser):
    """Groups of magnitudes; each value becomes its sign times its group's mean magnitude (arXiv 2011.06495).

    The groups are intervals of equal length on the logarithmic scale from the smallest to the largest magnitude of a
    worker's values that are not zero. There is no symbol for zero: it counts as +0 in the lowest group.

    Options
    -------
    num_groups: a power of two, at least 2; more groups round less. A value takes 1 + log2(num_groups) bits.
    """

    def __init__(self, num_groups: int = 8):
        if num_groups < 2 or num_groups.bit_count() != 1:
            raise UserError(f"num_groups={num_groups}: must be a power of two, at least 2")
        self.num_groups = num_groups
        self.code = LevelCode(num_groups.bit_length())

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        magnitudes = values.abs()
        groups = of_each(magnitudes, self._groups)
        # not scatter_add, which on a GPU adds in any order, and slowly where all go to few places
        members = groups.unsqueeze(1) == torch.arange(self.num_groups, device=values.device).view(1, -1, 1)
        means = torch.where(members, magnitudes.unsqueeze(1), 0).sum(2) / members.sum(2).clamp_(min=1)  # [W, groups]
        rounded = means.gather(1, groups)
        return torch.where(values < 0, -rounded, rounded), means

    def _groups(self, magnitudes: Tensor) -> Tensor:
        """[W, K] int64 in 0..num_groups-1."""
        largest = magnitudes.amax(1, keepdim=True)
        smallest = torch.where(magnitudes > 0, magnitudes, torch.inf).amin(1, keepdim=True)
        above = (magnitudes / smallest).log_()  # -inf for zero
        places = (above * self.num_groups / (largest / smallest).log_()).nan_to_num_(nan=0.0)
        return places.clamp_(0, self.num_groups - 1).long()


class TwoMagnitudes(Quantiser):
    """Sign, and one of two magnitudes of the value's segment: the mean of its larger half, or of its smaller one.

    Of n values the larger half are the ceil(n / 2) of largest magnitude, among equal ones the first. Two bits a value,
    and two side scalars a segment. Not told of segments, all values are one.
    """

    code: TwoMagnitudeCode

    def __init__(self) -> None:
        self.code = TwoMagnitudeCode(None)

    def expect(self, sizes: tuple[int, ...]) -> None:
        self.code = TwoMagnitudeCode(sizes)

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor]:
        sizes = self.code.sizes or (values.shape[1],)
        slots, lengths = _table(sizes, values.device)
        magnitudes, shape = values.abs(), (len(values), len(sizes), max(sizes))
        table = values.new_full((shape[0], shape[1] * shape[2]), -1).index_copy_(1, slots, magnitudes).view(shape)
        order = table.sort(dim=2, descending=True, stable=True).indices
        ranks = torch.empty_like(order).scatter_(2, order, torch.arange(shape[2], device=order.device).expand(shape))
        halves = (lengths + 1) // 2
        is_larger = ranks < halves
        larger = torch.where(is_larger, table, 0).sum(2) / halves[:, 0]
        smaller = torch.where(is_larger | (ranks >= lengths), 0, table).sum(2) / (lengths - halves)[:, 0].clamp(min=1)
        side = torch.cat([larger, smaller], 1)
        chosen = is_larger.flatten(1).index_select(1, slots)
        return self.code.dequantise(values < 0, chosen, side), side


@cache
def _table(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the values of segments are in a table with a line for each, [sum of sizes]; their lengths, a column."""
    lengths = torch.tensor(sizes, device=device)
    line = torch.arange(len(sizes), device=device).repeat_interleave(lengths, output_size=sum(sizes))
    within = torch.arange(sum(sizes), device=device) - (lengths.cumsum(0) - lengths)[line]
    return line * max(sizes) + within, lengths.unsqueeze(1)
