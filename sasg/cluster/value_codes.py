"""Value codes: how the values that a quantiser makes go over a link in fewer bits than floats take.

A code depends on what was quantised only through its side scalars, which go along with the values. decode(encode(x))
is exactly x for every x that the code can express.

What a new code must provide: `bits`, at most 62, the whole number of bits of a value's symbol; `_numbers`, symbols as
whole numbers; `_values`, their inverse. Packing, counting and sending follow from these, on every cluster and wire.
What is not in the symbols and not known to every process must be in the side scalars. A code may depend on the place
of a value in the payload (buckets, segments): the order of a payload's entries is kept.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class ValueCode(ABC):
    """A fixed number of `bits` per value."""

    bits: int

    def encode(self, values: Tensor, side: Tensor) -> Tensor:
        """values [n], side [s] -> uint8 [ceil(n * bits / 8)]."""
        return _pack(self._numbers(values, side), self.bits)

    def decode(self, data: Tensor, n: int, side: Tensor, dtype: torch.dtype) -> Tensor:
        """The inverse of `encode`: values [n] of type `dtype`."""
        return self._values(_unpack(data, n, self.bits), side).to(dtype)

    def num_bytes(self, n: int) -> int:
        """Of n encoded values: whole bytes."""
        return (n * self.bits + 7) // 8

    @abstractmethod
    def _numbers(self, values: Tensor, side: Tensor) -> Tensor:
        """values [n] -> int64 [n] in [0, 2^bits)."""

    @abstractmethod
    def _values(self, numbers: Tensor, side: Tensor) -> Tensor:
        """The inverse of `_numbers`."""


class LevelCode(ValueCode):
    """A sign and one of 2^(bits-1) magnitudes: the levels, which `side` holds in any order.

    A value is plus or minus a level. There is no symbol for zero: a quantiser that makes zeros has a level that is
    zero (the mean of an empty group, say), and one that does not rounds zeros to a level, like all else.
    """

    def __init__(self, bits: int):
        assert bits >= 1
        self.bits = bits

    def _numbers(self, values: Tensor, side: Tensor) -> Tensor:
        assert len(side) == 2 ** (self.bits - 1)
        levels, order = side.sort()
        magnitudes = values.abs()
        above = torch.searchsorted(levels, magnitudes).clamp_(max=len(side) - 1)
        below = (above - 1).clamp_(min=0)
        nearest = torch.where(magnitudes - levels[below] < levels[above] - magnitudes, below, above)
        return order[nearest] * 2 + (values < 0)

    def _values(self, numbers: Tensor, side: Tensor) -> Tensor:
        return torch.where(numbers % 2 == 1, -1, 1) * side[numbers // 2]


class IntegerLevelCode(ValueCode):
    """A sign and an integer level 0..num_levels (QSGD; Alistarh et al. 2017): side[b] * sign * level / num_levels.

    side: the norm of each bucket of `bucket_size` values in a row; one norm of them all where that is None. Zero is
    level 0. A quantiser makes its values with `dequantise`, so that they are exactly what is decoded.
    """

    def __init__(self, num_levels: int, bucket_size: int | None = None):
        assert num_levels >= 1
        self.num_levels = num_levels
        self.bucket_size = bucket_size
        self.bits = 1 + num_levels.bit_length()  # ceil(log2(s + 1)) is the bit length of s

    def dequantise(self, signed_levels: Tensor, norms: Tensor) -> Tensor:
        """norm * level / num_levels, elementwise; signed_levels in -num_levels..num_levels, norms broadcast to them."""
        return norms * signed_levels / self.num_levels

    def _numbers(self, values: Tensor, side: Tensor) -> Tensor:
        norms = self._norms(side, len(values))
        level = torch.where(norms > 0, values.abs() / norms * self.num_levels, 0).round().long()
        return level * 2 + (values < 0)

    def _values(self, numbers: Tensor, side: Tensor) -> Tensor:
        signed = (numbers // 2) * torch.where(numbers % 2 == 1, -1, 1)
        return self.dequantise(signed.to(side.dtype), self._norms(side, len(numbers)))

    def _norms(self, side: Tensor, n: int) -> Tensor:
        return side.expand(n) if self.bucket_size is None else side.repeat_interleave(self.bucket_size)[:n]


def _pack(numbers: Tensor, bits: int) -> Tensor:
    """int64 [n] in [0, 2^bits) -> uint8 [ceil(n * bits / 8)].

    First n lowest bytes, then n second ones, and so on, as far as whole bytes go; then the bits that are left of each
    number, without gaps, the lowest first.
    """
    whole, left = divmod(bits, 8)
    planes = [(numbers >> 8 * i).to(torch.uint8) for i in range(whole)]
    if left:
        rest = numbers >> 8 * whole
        eights = torch.nn.functional.pad(rest, (0, -len(rest) % 8)).view(-1, 8)
        together = torch.zeros_like(eights[:, 0])
        for i in range(8):
            together |= eights[:, i] << left * i  # eight numbers of `left` bits are `left` bytes
        planes.append(together.unsqueeze(1).view(torch.uint8)[:, :left].flatten()[: (len(rest) * left + 7) // 8])
    return torch.cat(planes)


def _unpack(data: Tensor, n: int, bits: int) -> Tensor:
    """The inverse of `_pack`: int64 [n]."""
    whole, left = divmod(bits, 8)
    numbers = torch.zeros(n, dtype=torch.int64, device=data.device)
    if left:
        rest = torch.nn.functional.pad(data[whole * n :], (0, -len(data[whole * n :]) % left)).view(-1, left)
        together = torch.nn.functional.pad(rest, (0, 8 - left)).view(torch.int64)
        eights = together >> left * torch.arange(8, device=data.device) & 2**left - 1
        numbers |= eights.flatten()[:n] << 8 * whole
    for i in range(whole):
        numbers |= data[i * n : (i + 1) * n].long() << 8 * i
    return numbers


def bits_of(data: Tensor) -> Tensor:
    """uint8 [n] -> bool [8 n], the lowest bit of a byte first."""
    return (data.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8, device=data.device) & 1).bool().flatten()
