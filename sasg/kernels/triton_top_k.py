"""Exact top-k of every segment and row at once: Triton kernels, no host synchronisation.

Rows are cut into tiles that lie within one segment. One pass over the data keeps the entries whose magnitude is at
least a guess (a share of the smallest magnitude selected from this row and segment the last time); where a segment
keeps too few, a second pass takes all its entries, so that the guess changes the time and never the result. The rest
works on these few candidates: a radix search, digit by digit, for the bit pattern of the k-th magnitude, then selection
in index order. The order of magnitudes is that of their bits as integers.

A segment's candidates follow each other in no certain order of tiles, but each tile's are together and in index order.
"""
# fmt: off
# (one argument per line would make the kernels unreadable)

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE, LINE = 4096, 32
SEARCHED = 64 * TILE  # entries per program of the radix search: about one in 64 is a candidate
DIGITS = ((23, 8), (15, 8), (7, 8), (0, 7))  # (shift, bits), from the highest of the 31 bits of a magnitude
BINS = 256
GUESS = 0.9  # of the previous threshold
CHUNK = 128  # of a tile's candidates at a time


@triton.jit
def _magnitude(bits):
    return bits & 0x7FFFFFFF


@triton.jit
def _skips(sent, row, MASKED: tl.constexpr):
    return (tl.load(sent + row) == 0) if MASKED else False


@triton.jit
def _keep(
    vectors, keys, positions, counter, start, size, segment_start, guess, LINES: tl.constexpr, LINE: tl.constexpr
):
    # Appends a tile's candidates to its segment's; returns where they start and how many they are. Ranks are counted
    # warp by warp (a line is as long as a warp), and stores are flat, so that no data changes its thread.
    i = tl.arange(0, LINES)[:, None] * LINE + tl.arange(0, LINE)[None, :]
    bits = tl.load(vectors + start + i, mask=i < size, other=0.0).to(tl.int32, bitcast=True)
    chosen = ((i < size) & (_magnitude(bits) >= guess)).to(tl.int32)
    by_line = tl.sum(chosen, axis=1)
    count = tl.sum(by_line, axis=0)
    base = segment_start + tl.atomic_add(counter, count)
    out = base + (tl.cumsum(by_line, axis=0) - by_line)[:, None] + tl.cumsum(chosen, axis=1) - 1
    out, mask = tl.reshape(out, [LINES * LINE]), tl.reshape(chosen != 0, [LINES * LINE])
    tl.store(keys + out, tl.reshape(bits, [LINES * LINE]), mask=mask)
    tl.store(positions + out, start + tl.arange(0, LINES * LINE), mask=mask)
    return base, count


@triton.jit
def _keep_likely(
    vectors, row_stride, sent, guesses, totals, keys, positions, bases, counts, tile_segment, tile_start, tile_size,
    segment_start, num_segments, num_entries, MASKED: tl.constexpr, LINES: tl.constexpr, LINE: tl.constexpr,
):
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if _skips(sent, row, MASKED):
        return
    segment = tl.load(tile_segment + tile)
    at = row * num_segments + segment
    base, count = _keep(
        vectors + row * row_stride, keys + row * num_entries, positions + row * num_entries, totals + at,
        tl.load(tile_start + tile), tl.load(tile_size + tile), tl.load(segment_start + segment),
        tl.load(guesses + at), LINES, LINE,
    )
    slot = row * tl.num_programs(0) + tile
    tl.store(bases + slot, base)
    tl.store(counts + slot, count)


@triton.jit
def _keep_all(
    vectors, row_stride, sent, kept, totals, retotals, keys, positions, bases, counts, tile_start, tile_size,
    first_tile, segment_start, chunk_segment, chunk_first, chunk_step, num_segments, num_entries, num_tiles,
    MASKED: tl.constexpr, LINES: tl.constexpr, LINE: tl.constexpr,
):
    # The second chance of segments with fewer candidates than they must keep: small ones, after the first iterations.
    program, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if _skips(sent, row, MASKED):
        return
    segment = tl.load(chunk_segment + program)
    at = row * num_segments + segment
    if tl.load(totals + at) >= tl.load(kept + segment):
        return
    first = tl.load(first_tile + segment) + tl.load(chunk_first + program) // (LINES * LINE)
    for tile in range(first, tl.load(first_tile + segment + 1), tl.load(chunk_step + program) // (LINES * LINE)):
        base, count = _keep(
            vectors + row * row_stride, keys + row * num_entries, positions + row * num_entries, retotals + at,
            tl.load(tile_start + tile), tl.load(tile_size + tile), tl.load(segment_start + segment), 0, LINES, LINE,
        )
        tl.store(bases + row * num_tiles + tile, base)
        tl.store(counts + row * num_tiles + tile, count)


@triton.jit
def _histogram(
    sent, totals, retotals, keys, thresholds, histogram, chunk_segment, chunk_first, chunk_step, segment_start,
    num_segments, num_entries, SHIFT: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr, TILE: tl.constexpr,
    BINS: tl.constexpr,
):
    # A large segment has several programs, each for every so manieth chunk of its candidates.
    program, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if _skips(sent, row, MASKED):
        return
    segment = tl.load(chunk_segment + program)
    at = row * num_segments + segment
    total = tl.maximum(tl.load(totals + at), tl.load(retotals + at))
    prefix = tl.load(thresholds + at) >> (SHIFT + WIDTH)
    keys += row * num_entries + tl.load(segment_start + segment)
    step = tl.load(chunk_step + program)
    number = tl.zeros((BINS,), dtype=tl.int32)
    for first in range(tl.load(chunk_first + program), total, step):
        c = first + tl.arange(0, TILE)
        key = _magnitude(tl.load(keys + c, mask=c < total, other=0))
        same = (c < total) & ((key >> (SHIFT + WIDTH)) == prefix)
        number += tl.histogram((key >> SHIFT) & ((1 << WIDTH) - 1), BINS, mask=same)
    tl.atomic_add(histogram + at * BINS + tl.arange(0, BINS), number, mask=number > 0, sem="relaxed")


@triton.jit
def _find_digit(
    sent, kept, thresholds, missing, guesses, histogram, num_segments, guess_share, SHIFT: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, MASKED: tl.constexpr, BINS: tl.constexpr,
):
    # One more digit of the k-th largest magnitude; leaves the histogram empty.
    segment, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if _skips(sent, row, MASKED):
        return
    at = row * num_segments + segment
    wanted = tl.load(kept + segment) if FIRST else tl.load(missing + at)
    b = tl.arange(0, BINS)
    number = tl.load(histogram + at * BINS + b)
    tl.store(histogram + at * BINS + b, tl.zeros_like(number))
    at_least = tl.cumsum(number, axis=0, reverse=True)
    digit = tl.sum((at_least >= wanted).to(tl.int32), axis=0) - 1
    above = tl.sum(tl.where(b > digit, number, 0), axis=0)
    threshold = (0 if FIRST else tl.load(thresholds + at)) | (digit << SHIFT)
    tl.store(thresholds + at, threshold)
    tl.store(missing + at, wanted - above)
    if LAST:
        tl.store(guesses + at, (threshold.to(tl.float32, bitcast=True) * guess_share).to(tl.int32, bitcast=True))


@triton.jit
def _count(
    sent, keys, bases, counts, thresholds, larger, equal, tile_segment, num_segments, num_entries,
    MASKED: tl.constexpr, CHUNK: tl.constexpr,
):
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if _skips(sent, row, MASKED):
        return
    slot = row * tl.num_programs(0) + tile
    threshold = tl.load(thresholds + row * num_segments + tl.load(tile_segment + tile))
    count = tl.load(counts + slot)
    keys += row * num_entries + tl.load(bases + slot)
    num_larger = tl.zeros((CHUNK,), dtype=tl.int32)
    num_equal = tl.zeros((CHUNK,), dtype=tl.int32)
    for first in range(0, count, CHUNK):
        c = first + tl.arange(0, CHUNK)
        key = _magnitude(tl.load(keys + c, mask=c < count, other=0))
        num_larger += ((c < count) & (key > threshold)).to(tl.int32)
        num_equal += ((c < count) & (key == threshold)).to(tl.int32)
    tl.store(larger + slot, tl.sum(num_larger, axis=0))
    tl.store(equal + slot, tl.sum(num_equal, axis=0))


@triton.jit
def _place(
    sent, larger, equal, missing, first_tile, out_start, num_segments, num_tiles, MASKED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    # Turns the tiles' counts into where each tile writes (`larger`) and how many ties it takes (`equal`).
    segment, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if _skips(sent, row, MASKED):
        return
    ties = tl.load(missing + row * num_segments + segment)
    offset = tl.load(out_start + segment)
    end = tl.load(first_tile + segment + 1)
    for first in range(tl.load(first_tile + segment), end, CHUNK):
        t = first + tl.arange(0, CHUNK)
        slot = row * num_tiles + t
        num_larger = tl.load(larger + slot, mask=t < end, other=0)
        num_equal = tl.load(equal + slot, mask=t < end, other=0)
        before = tl.cumsum(num_equal, axis=0) - num_equal
        taken = tl.minimum(tl.maximum(ties - before, 0), num_equal)
        selected = num_larger + taken
        tl.store(larger + slot, offset + tl.cumsum(selected, axis=0) - selected, mask=t < end)
        tl.store(equal + slot, taken, mask=t < end)
        ties -= tl.sum(taken, axis=0)
        offset += tl.sum(selected, axis=0)


@triton.jit
def _select(
    sent, keys, positions, bases, counts, thresholds, larger, equal, tile_segment, num_segments, num_entries, values,
    indices, num_kept, MASKED: tl.constexpr, CHUNK: tl.constexpr,
):
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    if _skips(sent, row, MASKED):
        return
    slot = row * tl.num_programs(0) + tile
    threshold = tl.load(thresholds + row * num_segments + tl.load(tile_segment + tile))
    count = tl.load(counts + slot)
    start = row * num_entries + tl.load(bases + slot)
    out = row * num_kept + tl.load(larger + slot)
    ties = tl.load(equal + slot)
    for first in range(0, count, CHUNK):
        c = first + tl.arange(0, CHUNK)
        bits = tl.load(keys + start + c, mask=c < count, other=0)
        position = tl.load(positions + start + c, mask=c < count, other=0)
        tie = (c < count) & (_magnitude(bits) == threshold)
        chosen = ((c < count) & (_magnitude(bits) > threshold)) | (tie & (tl.cumsum(tie.to(tl.int32), axis=0) <= ties))
        at = out + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        tl.store(values + at, bits.to(tl.float32, bitcast=True), mask=chosen)
        tl.store(indices + at, position.to(tl.int64), mask=chosen)
        ties -= tl.minimum(tl.sum(tie.to(tl.int32), axis=0), ties)
        out += tl.sum(chosen.to(tl.int32), axis=0)


class TritonTopK:
    """Top-k of `segments`, (entries, of which kept) each, for [W, d] float32 rows on one GPU.

    Rows that do not send are not looked at: they repeat their last result.
    """

    def __init__(self, segments: Sequence[tuple[int, int]], num_rows: int, device: torch.device):
        tiles, chunks, first_tile, out_start, segment_start, start, kept = [], [], [0], [], [], 0, 0
        for number, (size, wanted) in enumerate(segments):
            tiles += [(number, start + offset, min(TILE, size - offset)) for offset in range(0, size, TILE)]
            programs = triton.cdiv(size, SEARCHED)
            chunks += [(number, first * TILE, programs * TILE) for first in range(programs)]
            first_tile.append(len(tiles))
            out_start.append(kept)
            segment_start.append(start)
            start, kept = start + size, kept + wanted
        self.num_segments, self.num_tiles, self.num_entries, self.num_kept, self.num_rows = (
            len(segments), len(tiles), start, kept, num_rows,
        )
        integers = {"dtype": torch.int32, "device": device}

        def constant(numbers: Sequence[int]) -> Tensor:
            return torch.tensor(numbers, **integers)

        self._tiles = [constant(column) for column in zip(*tiles, strict=True)]  # segment, start, size
        self._chunks = [constant(column) for column in zip(*chunks, strict=True)]  # segment, first candidate, step
        self._first_tile, self._out_start, self._segment_start = map(constant, (first_tile, out_start, segment_start))
        self._kept = constant([wanted for _, wanted in segments])
        per_segment = (num_rows, len(segments))
        self._guesses = torch.full(per_segment, 0x7FFFFFFF, **integers)
        self._totals = torch.zeros(2, *per_segment, **integers)  # candidates at the first and the second try
        self._thresholds, self._missing = (torch.zeros(per_segment, **integers) for _ in range(2))
        self._histogram = torch.zeros(*per_segment, BINS, **integers)
        self._bases, self._counts, self._larger, self._equal = (
            torch.zeros(num_rows, len(tiles), **integers) for _ in range(4)
        )
        self._keys, self._positions = (torch.empty(num_rows, start, **integers) for _ in range(2))
        self.values = torch.zeros(num_rows, kept, device=device)
        self.indices = torch.zeros(num_rows, kept, dtype=torch.int64, device=device)

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values and positions [W, K], positions ascending in each segment; the next call overwrites them."""
        flags = self._kept if sent is None else sent.view(torch.uint8)
        masked, lines = {"MASKED": sent is not None}, {"LINES": TILE // LINE, "LINE": LINE}
        sizes = (self.num_segments, self.num_entries)
        by_tile, by_segment, by_chunk = (
            (n, self.num_rows) for n in (self.num_tiles, self.num_segments, len(self._chunks[0]))
        )
        tile_segment, tile_start, tile_size = self._tiles
        candidates, found = (self._keys, self._positions), (self._bases, self._counts)
        self._totals.zero_()
        _keep_likely[by_tile](
            vectors, vectors.stride(0), flags, self._guesses, self._totals[0], *candidates, *found, *self._tiles,
            self._segment_start, *sizes, **lines, **masked, num_warps=8,
        )
        _keep_all[by_chunk](
            vectors, vectors.stride(0), flags, self._kept, *self._totals, *candidates, *found, tile_start, tile_size,
            self._first_tile, self._segment_start, *self._chunks, *sizes, self.num_tiles, **lines, **masked,
            num_warps=8,
        )
        for number, (shift, width) in enumerate(DIGITS):
            _histogram[by_chunk](
                flags, *self._totals, self._keys, self._thresholds, self._histogram, *self._chunks,
                self._segment_start, *sizes, SHIFT=shift, WIDTH=width, TILE=TILE, BINS=BINS, **masked, num_warps=8,
            )
            _find_digit[by_segment](
                flags, self._kept, self._thresholds, self._missing, self._guesses, self._histogram, self.num_segments,
                GUESS, SHIFT=shift, FIRST=number == 0, LAST=number == len(DIGITS) - 1, BINS=BINS, **masked,
                num_warps=1,
            )
        _count[by_tile](
            flags, self._keys, *found, self._thresholds, self._larger, self._equal, tile_segment, *sizes, CHUNK=CHUNK,
            **masked, num_warps=1,
        )
        _place[by_segment](
            flags, self._larger, self._equal, self._missing, self._first_tile, self._out_start, self.num_segments,
            self.num_tiles, CHUNK=512, **masked,
        )
        _select[by_tile](
            flags, *candidates, *found, self._thresholds, self._larger, self._equal, tile_segment, *sizes,
            self.values, self.indices, self.num_kept, CHUNK=CHUNK, **masked, num_warps=1,
        )
        return self.values, self.indices
