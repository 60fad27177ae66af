"""Encoder and decoder of positions: what the ledger counts, as bytes.

Fields of bits follow each other, the lowest bit of a byte first, without gaps up to the end of all segments. `delta` is
first the remainders of all gaps, then all quotients in unary (as many zeros, then a one). Everything is made of prefix
sums and of scattering into words, the same on a CPU and a GPU, and waits for neither.
"""

import torch
from torch import Tensor

from sasg.cluster.accounting.codes import Entries, gaps_of
from sasg.cluster.accounting.value_codes import bits_of
from sasg.cluster.payload import Segment

# Words are of 32 bits, kept as int64, so that a field that begins in one and ends in the next fits for a while.
# Shifts and masks: torch divides whole numbers ten times as slowly.
_LOW = 2**32 - 1


def encode_positions(code: str, indices: Tensor, segments: tuple[Segment, ...], num_bytes: int) -> Tensor:
    """Positions [K] in one of `codes.WRITABLE`, which can express them -> uint8 [num_bytes].

    segments: as in `Payload`, exactly K kept. num_bytes: as the ledger counts, up to a whole byte.
    """
    if code == "int32":
        return indices.to(torch.int32).view(torch.uint8)
    words = indices.new_zeros(num_bytes // 4 + 2)
    entries = Entries.of(segments, indices.device)
    match code:
        case "log2":
            _write(words, _starts(entries.width, indices), indices - entries.begin)
        case "bitmask":
            _set_bits(words, indices)
        case "delta":
            gaps, parameter = gaps_of(indices, entries.begin), entries.parameter
            quotients = gaps >> parameter
            _write(words, _starts(parameter, indices), gaps - (quotients << parameter))
            _set_bits(words, (quotients + 1).cumsum(0) + (_remainder_bits(segments) - 1))
        case _:
            raise ValueError(f"{code}: is not a code that can be written")
    return words.view(torch.int32)[::2].contiguous().view(torch.uint8)[:num_bytes]


def decode_positions(code: str, data: Tensor, num: int, segments: tuple[Segment, ...]) -> Tensor:
    """The inverse of `encode_positions`: int64 [num]. Damaged data give any positions, or -1 where that is seen."""
    if code == "int32":
        return data.clone().view(torch.int32).long()
    if code == "bitmask":
        return _set_places(bits_of(data), num)
    entries, every = Entries.of(segments, data.device), torch.arange(num, device=data.device)
    if code == "log2":
        return _read(data, _starts(entries.width, every), entries.width) + entries.begin
    if code != "delta":
        raise ValueError(f"{code}: is not a code that can be read")
    parameter, begin = entries.parameter, _remainder_bits(segments)
    remainders = _read(data, _starts(parameter, every), parameter)
    ends = _set_places(bits_of(data[begin // 8 :])[begin % 8 :], num)
    quotients = torch.diff(ends, prepend=ends.new_full((1,), -1)) - 1
    steps = ((quotients << parameter) + remainders + 1).cumsum(0)
    before = torch.nn.functional.pad(steps, (1, 0))[entries.first]
    return (entries.begin + steps - before - 1).masked_fill_(ends < 0, -1)


def min_bits(code: str, segments: tuple[Segment, ...]) -> int:
    """Of positions in `code`; `delta` may take more, but not more than the others."""
    match code:
        case "int32":
            return sum(32 * segment.kept for segment in segments)
        case "log2":
            return sum((segment.size - 1).bit_length() * segment.kept for segment in segments)
        case "bitmask":
            return sum(segment.size for segment in segments)
    return _remainder_bits(segments) + sum(segment.kept for segment in segments)


def _remainder_bits(segments: tuple[Segment, ...]) -> int:
    return sum(int(Entries.of((segment,), None).parameter) * segment.kept for segment in segments)


def _starts(widths: Tensor | int, like: Tensor) -> Tensor:
    """Where fields [K] of these widths begin."""
    if isinstance(widths, int):
        return torch.arange(len(like), device=like.device) * widths
    return widths.cumsum(0) - widths


def _write(words: Tensor, starts: Tensor, numbers: Tensor) -> None:
    """Numbers of at most 32 bits; fields do not overlap, so that to add is to write."""
    places, shifted = starts >> 5, numbers << (starts & 31)
    words.scatter_add_(0, places, shifted & _LOW)
    words.scatter_add_(0, places + 1, shifted >> 32)


def _set_bits(words: Tensor, places: Tensor) -> None:
    """places: no one twice."""
    words.scatter_add_(0, places >> 5, 1 << (places & 31))


def _read(data: Tensor, starts: Tensor, widths: Tensor | int) -> Tensor:
    """The numbers in fields of at most 32 bits."""
    padded = torch.nn.functional.pad(data, (0, -len(data) % 4 + 8))  # a field may end where data do
    words = padded.view(torch.int32).long() & _LOW
    places = starts >> 5
    pairs = words.index_select(0, places) | words.index_select(0, places + 1) << 32
    return pairs >> (starts & 31) & (1 << widths) - 1


def _set_places(bits: Tensor, num: int) -> Tensor:
    """Where bits [n] are set, int64 [num]; all -1 where they are not so many."""
    places = torch.nonzero_static(bits, size=num + 1).squeeze(1)
    return places[:num].masked_fill_((places[num] >= 0) | (places[:num] < 0).any(), -1)
