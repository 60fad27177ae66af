"""Index codes: how many bits positions take, those of a sparse payload, of a vote, or of a mask.

All are computed over the segment that was sparsified (a tensor, or the whole vector). `delta`, `entropy` and `packed`
depend on more than the segments; their bits are computed where the positions are, without waiting for them.
"""

from functools import cache, lru_cache
from math import lgamma, log
from typing import NamedTuple

import torch
from torch import Tensor

from sasg.cluster.payload import Segment, first_entries
from sasg.errors import UserError

CODES = ("none", "int32", "log2", "bitmask")
"""`none` is the paper's convention; `bitmask` is one bit for each entry of the segment."""

MORE_CODES = ("delta", "entropy", "packed")
"""`delta`: Golomb-Rice coded gaps between ascending positions, their real length (see `rice_parameter`; sasg.cluster.
position_coding is the encoder). `entropy`: the bound log2 C(n, K), rounded up. `packed`: what cluster.wire=packed
sends, of each upload the cheapest of `WRITABLE`, in whole bytes, and `ANNOUNCEMENT_BITS` that say which and how many.
Where an upload's length varies, it costs 32 bits of its own, whatever the code."""

WRITABLE = ("int32", "log2", "bitmask", "delta")
"""What positions can be sent in. `bitmask` and `delta` keep the order of positions only where they ascend in each
segment; `log2` needs them to lie in their segment; `int32` needs nothing."""

ANNOUNCEMENT_BITS = 32


def check_codes(codes: tuple[str, ...]) -> None:
    """UserError if the ledger cannot count in these codes, or if a code is missing that reports are made from."""
    for code in codes:
        if code not in CODES + MORE_CODES:
            raise UserError(f"index_codes={list(codes)}: {code} is no code; known: {', '.join(CODES + MORE_CODES)}")
    if codes[: len(CODES)] != CODES or len(set(codes)) < len(codes):
        raise UserError(f"index_codes={list(codes)}: must begin with {', '.join(CODES)}, and name each code once")


@cache
def index_bits(code: str, segments: tuple[Segment, ...]) -> int:
    """Bits of the indices of one upload, in one of `CODES`."""
    linear = [(*_fixed_and_per_entry(code, segment.size), segment.kept) for segment in segments]
    return sum(fixed + per_entry * kept for fixed, per_entry, kept in linear)


def position_bits(code: str, indices: Tensor, count: Tensor | None, segments: tuple[Segment, ...]) -> Tensor:
    """Bits of each row of positions [n, k], in any code: int64 [n]. Arguments as in `Payload`."""
    if code == "delta":
        return _delta_bits(indices, count, segments)
    if code == "packed":
        return ANNOUNCEMENT_BITS + packed_bits(indices, count, segments)[0]
    if code == "entropy":
        counts = [count] if count is not None else [indices.new_full((len(indices),), s.kept) for s in segments]
        return sum(_entropy_bits(s.size, kept) for s, kept in zip(segments, counts, strict=True))
    if count is None:
        return indices.new_full((len(indices),), index_bits(code, segments))
    fixed, per_entry = _fixed_and_per_entry(code, segments[0].size)
    return fixed + per_entry * count


def _fixed_and_per_entry(code: str, size: int) -> tuple[int, int]:
    """Bits of positions in a segment, as a linear function of how many there are; one of `CODES`."""
    match code:
        case "none":
            return 0, 0
        case "int32":
            return 0, 32
        case "log2":
            return 0, (size - 1).bit_length()  # ceil(log2 size)
        case "bitmask":
            return size, 0
    raise AssertionError(code)


class Entries(NamedTuple):
    """Of each entry of a payload, [K], or of all where there is one segment: the segment's bounds in the flat vector,
    the bits that a position in it takes, its Rice parameter, and its first entry."""

    begin: Tensor | int
    end: Tensor | int
    width: Tensor | int
    parameter: Tensor | int
    first: Tensor | int

    @classmethod
    def of(cls, segments: tuple[Segment, ...], device: torch.device) -> "Entries":
        return _one_segment(*segments) if len(segments) == 1 else _of_segments(segments, device)


def _one_segment(segment: Segment) -> Entries:
    size = segment.size
    return Entries(0, size, (size - 1).bit_length(), _rice_parameter(size, segment.kept), 0)


@lru_cache(maxsize=8)
def _of_segments(segments: tuple[Segment, ...], device: torch.device) -> Entries:
    rows, begin, first = [], 0, 0
    for segment in segments:
        own = _one_segment(segment)
        rows.append(own._replace(begin=begin, end=begin + segment.size, first=first))
        begin, first = begin + segment.size, first + segment.kept
    times = torch.tensor([segment.kept for segment in segments])
    return Entries(*(torch.tensor(column).repeat_interleave(times).to(device) for column in zip(*rows, strict=True)))


def packed_bits(indices: Tensor, count: Tensor | None, segments: tuple[Segment, ...]) -> tuple[Tensor, Tensor]:
    """Of each row of positions [n, k]: bits in the cheapest code, up to whole bytes, and its place in `WRITABLE`.

    Both int64 [n]. Arguments as in `Payload`.
    """
    entries = Entries.of(segments, indices.device)
    count = None if count is None else count.to(indices.device)
    used = None if count is None else first_entries(count, indices.shape[1])
    gaps, parameter = _gaps(indices, count, segments)
    inside = (indices >= entries.begin) & (indices < entries.end)
    may = {"log2": _all(inside, used), "delta": _all(inside & (gaps >= 0), used)}
    may["bitmask"] = may["delta"]
    bits = [position_bits(code, indices, count, segments) for code in WRITABLE[:3]]
    bits.append(_sum(_rice_bits(gaps, parameter), used))
    bits = [b if code == "int32" else b.where(may[code], _NEVER) for code, b in zip(WRITABLE, bits, strict=True)]
    cheapest = torch.stack(bits).min(0)
    return _whole_bytes(cheapest.values), cheapest.indices


_NEVER = 2**62


def _whole_bytes(bits: Tensor) -> Tensor:
    return (bits + 7) // 8 * 8


def _all(flags: Tensor, used: Tensor | None) -> Tensor:
    return flags.all(1) if used is None else (flags | ~used).all(1)


def _sum(numbers: Tensor, used: Tensor | None) -> Tensor:
    return numbers.sum(1) if used is None else torch.where(used, numbers, 0).sum(1)


def sparse_or_dense_bits(update: Tensor, num_nonzero: Tensor, codes: tuple[str, ...] = CODES) -> Tensor:
    """Bits of a vector [d] sent in the shorter of two ways, by code (int64 [len(codes)]).

    Either all its values, or the values of its support, of `num_nonzero` entries, and their indices. A header tells
    which, and how the indices are packed; it is not counted.
    """
    size, value_bits = update.numel(), update.element_size() * 8
    fixed, per_entry = _affine(size, value_bits, codes, num_nonzero.device)
    bits = fixed + per_entry * num_nonzero
    for column, code in enumerate(codes):
        if code == "delta":
            bits[column] += _delta_bits_of_mask(update != 0, num_nonzero)
        elif code == "packed":
            delta = _delta_bits_of_mask(update != 0, num_nonzero)
            log2 = _fixed_and_per_entry("log2", size)[1] * num_nonzero
            bits[column] += _whole_bytes(torch.minimum(delta, log2).clamp(max=size))
        elif code == "entropy":
            bits[column] += _entropy_bits(size, num_nonzero)
    return torch.clamp(bits, max=size * value_bits)


@cache
def _affine(size: int, value_bits: int, codes: tuple[str, ...], device: torch.device) -> Tensor:
    """Bits of a sparse vector by code as a linear function of its support: [2, len(codes)]; not of `MORE_CODES`."""
    linear = [_fixed_and_per_entry(code, size) if code in CODES else (0, 0) for code in codes]
    return torch.tensor([[a for a, _ in linear], [value_bits + b for _, b in linear]], device=device)


# -- delta ----------------------------------------------------------------------------------------


def rice_parameter(size: int, count: Tensor) -> Tensor:
    """r: a gap g takes (g >> r) + 1 + r bits. The largest with 2^r <= 0.9625 size / count, or 0.

    Kiely (2004, "Selecting the Golomb parameter in Rice coding") for geometric gaps, of small density; in whole
    numbers, so that every machine finds the same. count: int64.
    """
    ratio = 77 * size // (80 * count.clamp(min=1))
    return torch.frexp(ratio.double())[1].long().sub(1).clamp(min=0)  # the bit length less one


def _rice_parameter(size: int, kept: int) -> int:
    """The same, of numbers of the host."""
    return max(0, (77 * size // (80 * max(kept, 1))).bit_length() - 1)


def _rice_bits(gaps: Tensor, parameter: Tensor | int) -> Tensor:
    return (gaps >> parameter) + 1 + parameter


def gaps_of(indices: Tensor, begin: Tensor | int) -> Tensor:
    """indices [..., k] -> how many entries lie between each and the one before it in its segment; < 0: not ascending.

    begin: where the segment of each entry begins.
    """
    after = torch.nn.functional.pad(indices[..., :-1] + 1, (1, 0))
    return indices - after.clamp_(min=begin)


def _gaps(indices: Tensor, count: Tensor | None, segments: tuple[Segment, ...]) -> tuple[Tensor, Tensor | int]:
    """Gaps [n, k] and Rice parameters, which can be broadcast to them."""
    entries = Entries.of(segments, indices.device)
    parameter = entries.parameter if count is None else rice_parameter(segments[0].size, count).unsqueeze(1)
    return gaps_of(indices, entries.begin), parameter


def _delta_bits(indices: Tensor, count: Tensor | None, segments: tuple[Segment, ...]) -> Tensor:
    if count is None:
        return _rice_bits(*_gaps(indices.sort(1).values, None, segments)).sum(1)
    return _sum(_rice_bits(*_gaps(indices, count, segments)), first_entries(count, indices.shape[1]))


def _delta_bits_of_mask(mask: Tensor, count: Tensor) -> Tensor:
    """Of the positions at which `mask` [d] is true, `count` in number, without listing them."""
    every = torch.arange(len(mask), device=mask.device)
    last = _running_maximum(torch.where(mask, every, -1))  # the last position up to each entry
    gaps = every - torch.nn.functional.pad(last[:-1], (1, 0), value=-1) - 1
    return torch.where(mask, _rice_bits(gaps, rice_parameter(len(mask), count)), 0).sum()


def _running_maximum(numbers: Tensor, block: int = 4096) -> Tensor:
    """`numbers.cummax(0).values` of whole numbers >= -1, by blocks: a GPU goes through a row with a single block."""
    rows = torch.nn.functional.pad(numbers, (0, -len(numbers) % block), value=-1).view(-1, block).cummax(1).values
    before = torch.nn.functional.pad(rows[:-1, -1].cummax(0).values, (1, 0), value=-1)
    return torch.maximum(rows, before.unsqueeze(1)).view(-1)[: len(numbers)]


# -- entropy --------------------------------------------------------------------------------------


def _entropy_bits(size: int, count: Tensor) -> Tensor:
    """ceil(log2 C(size, count)), elementwise."""
    k = count.double()
    nats = lgamma(size + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
    return torch.ceil(nats / log(2) - 1e-6).long().clamp(min=0)  # whole numbers stay so in spite of rounding
