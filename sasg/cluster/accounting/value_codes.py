"""Value codes: how the values that a quantiser makes go over a link in fewer bits than floats take.

A code depends on what was quantised only through its side scalars, which go along with the values. decode(encode(x))
is exactly x for every x that the code can express.

What a new code must provide: `bits`, at most 62, the whole number of bits of a value's symbol; `_numbers`, symbols as
whole numbers; `_values`, their inverse. Packing, counting and sending follow from these, on every cluster and wire.
What is not in the symbols and not known to every process must be in the side scalars. A code may depend on the place
of a value in the payload (buckets, segments): the order of a payload's entries is kept.
"""

from abc import ABC, abstractmethod
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor


class ValueCode(ABC):
    """A fixed number of `bits` per value.

    needs_side: whether values mean something only together with side scalars; without, `side` may be None.
    """

    bits: int
    needs_side: ClassVar[bool] = True

    def encode(self, values: Tensor, side: Tensor | None) -> Tensor:
        """values [n], side [s] -> uint8 [ceil(n * bits / 8)]."""
        return _pack(self._numbers(values, side), self.bits)

    def decode(self, data: Tensor, n: int, side: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The inverse of `encode`: values [n] of type `dtype`."""
        return self._values(_unpack(data, n, self.bits), side).to(dtype)

    def num_bytes(self, n: int) -> int:
        """Of n encoded values: whole bytes."""
        return (n * self.bits + 7) // 8

    @abstractmethod
    def _numbers(self, values: Tensor, side: Tensor | None) -> Tensor:
        """values [n] -> int64 [n] in [0, 2^bits)."""

    @abstractmethod
    def _values(self, numbers: Tensor, side: Tensor | None) -> Tensor:
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

    side: the norm of each bucket of `bucket_size` values in a row, or of each of the segments of `sizes` values; one
    norm of them all where both are None. Zero is level 0. A quantiser makes its values with `dequantise`, so that they
    are exactly what is decoded.
    """

    def __init__(self, num_levels: int, bucket_size: int | None = None, sizes: tuple[int, ...] | None = None):
        assert num_levels >= 1 and (bucket_size is None or sizes is None)
        self.num_levels = num_levels
        self.bucket_size = bucket_size
        self.sizes = sizes
        self.bits = 1 + num_levels.bit_length()  # ceil(log2(s + 1)) is the bit length of s

    def dequantise(self, signed_levels: Tensor, norms: Tensor) -> Tensor:
        """norm * level / num_levels, elementwise; signed_levels in -num_levels..num_levels, norms broadcast to them."""
        return norms * signed_levels / self.num_levels

    def _numbers(self, values: Tensor, side: Tensor) -> Tensor:
        norms = self.spread(side, len(values))
        level = torch.where(norms > 0, values.abs() / norms * self.num_levels, 0).round().long()
        return level * 2 + (values < 0)

    def _values(self, numbers: Tensor, side: Tensor) -> Tensor:
        signed = (numbers // 2) * torch.where(numbers % 2 == 1, -1, 1)
        return self.dequantise(signed.to(side.dtype), self.spread(side, len(numbers)))

    def spread(self, norms: Tensor, n: int) -> Tensor:
        """norms [..., s] -> [..., n], the norm that belongs to each value."""
        if self.sizes is not None:
            return spread(norms, self.sizes)
        if self.bucket_size is not None:
            return norms.repeat_interleave(self.bucket_size, -1)[..., :n]
        return norms.expand(*norms.shape[:-1], n)


class UniformGridCode(ValueCode):
    """One of 2^bits levels l at equal distances from -R to R, R the side scalar: R (2 l / (2^bits - 1) - 1).

    At most 16 bits, so that the level of a value is found in spite of the rounding of single precision. A quantiser
    makes its values with `dequantise`, so that they are exactly what is decoded.
    """

    def __init__(self, bits: int):
        assert 1 <= bits <= 16
        self.bits = bits

    def level_of(self, values: Tensor, radius: Tensor) -> Tensor:
        """The nearest level, as whole floats; of two that are as near the upper one, as for zero; 0 where R is 0."""
        last = 2**self.bits - 1
        places = (values / radius + 1) * (last / 2) + 0.5  # exact for zero
        return torch.where(radius > 0, places.floor_().clamp_(0, last), 0)

    def dequantise(self, levels: Tensor, radius: Tensor) -> Tensor:
        """The values of levels, elementwise; radius is broadcast to them."""
        return radius * (2 * levels / (2**self.bits - 1) - 1)

    def _numbers(self, values: Tensor, side: Tensor) -> Tensor:
        return self.level_of(values, side).long()

    def _values(self, numbers: Tensor, side: Tensor) -> Tensor:
        return self.dequantise(numbers.to(side.dtype), side)


class TwoMagnitudeCode(ValueCode):
    """A sign, and one of two magnitudes of the value's segment; `sizes` values each, or None: one segment.

    side: the larger magnitudes of all segments, then the smaller ones. There is no symbol for zero but a magnitude of
    zero. A quantiser makes its values with `dequantise`, so that they are exactly what is decoded.
    """

    bits = 2

    def __init__(self, sizes: tuple[int, ...] | None):
        self.sizes = sizes

    def dequantise(self, is_negative: Tensor, is_larger: Tensor, side: Tensor) -> Tensor:
        """The values [..., n] of signs and choices [..., n] and side scalars [..., 2 segments]."""
        larger, smaller = self._magnitudes(side, is_larger.shape[-1])
        return signed(is_negative, torch.where(is_larger, larger, smaller))

    def _magnitudes(self, side: Tensor, n: int) -> list[Tensor]:
        return [spread(half, self.sizes or (n,)) for half in side.chunk(2, -1)]

    def _numbers(self, values: Tensor, side: Tensor) -> Tensor:
        larger, smaller = self._magnitudes(side, len(values))
        magnitudes = values.abs()
        is_larger = (magnitudes - larger).abs() <= (magnitudes - smaller).abs()
        return is_larger * 2 + (values < 0).long()

    def _values(self, numbers: Tensor, side: Tensor) -> Tensor:
        return self.dequantise(numbers % 2 == 1, numbers >= 2, side)


class ScaledSignCode(ValueCode):
    """A sign and no more: a value is plus or minus the side scalar of its segment, of `sizes` values. Zero is plus."""

    bits = 1

    def __init__(self, sizes: tuple[int, ...]):
        self.sizes = sizes

    def _numbers(self, values: Tensor, side: Tensor) -> Tensor:
        return (values < 0).long()

    def _values(self, numbers: Tensor, side: Tensor) -> Tensor:
        return signed(numbers == 1, spread(side, self.sizes))


class SignCode(ValueCode):
    """A sign and no more: a value is plus or minus a `magnitude` > 0 that everybody knows."""

    bits = 1
    needs_side = False

    def __init__(self, magnitude: float = 1.0):
        assert magnitude > 0
        self.magnitude = magnitude

    def _numbers(self, values: Tensor, side: Tensor | None) -> Tensor:
        return (values < 0).long()

    def _values(self, numbers: Tensor, side: Tensor | None) -> Tensor:
        return (1 - 2 * numbers).double() * self.magnitude


class PowerOfTwoCode(ValueCode):
    """A sign and a power of two from 2^-126 to 2^127, or zero: the first nine bits of a float32."""

    bits = 9
    needs_side = False
    smallest, largest = 2.0**-126, 2.0**127

    def _numbers(self, values: Tensor, side: Tensor | None) -> Tensor:
        return values.float().view(torch.int32).long() >> 23 & 511

    def _values(self, numbers: Tensor, side: Tensor | None) -> Tensor:
        return (numbers << 23).to(torch.int32).view(torch.float32)


class HalfCode(ValueCode):
    """Values of 16 bits, `dtype`: float16 or bfloat16."""

    bits = 16
    needs_side = False

    def __init__(self, dtype: torch.dtype):
        assert dtype.itemsize == 2
        self.dtype = dtype

    def _numbers(self, values: Tensor, side: Tensor | None) -> Tensor:
        return values.to(self.dtype).view(torch.int16).long() & 0xFFFF

    def _values(self, numbers: Tensor, side: Tensor | None) -> Tensor:
        return numbers.to(torch.int16).view(self.dtype)


def spread(scalars: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """scalars [..., s], one for each segment -> [..., sum of sizes], each as often as its segment has entries."""
    if len(sizes) == 1:
        return scalars.expand(*scalars.shape[:-1], sizes[0])
    return scalars.repeat_interleave(_times(sizes, scalars.device), -1, output_size=sum(sizes))


@cache
def _times(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """On the device once: an iteration that a CUDA graph holds copies nothing to it."""
    return torch.tensor(sizes, device=device)


def signed(is_negative: Tensor, magnitudes: Tensor) -> Tensor:
    """-magnitude where it is negative, else magnitude."""
    return torch.where(is_negative, -magnitudes, magnitudes)


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
