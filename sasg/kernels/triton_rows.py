"""Row operations on [W, n] matrices: Triton kernels that skip the rows of workers that do not send by themselves."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096


@triton.jit
def _copy(target, source, sent, target_stride, source_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(sent + row) == 0:
        return
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + row * target_stride + i, tl.load(source + row * source_stride + i, mask=i < size), mask=i < size)


@triton.jit
def _clear(target, positions, sent, target_stride, size, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if MASKED:  # noqa: SIM102 -- one is decided when compiling
        if tl.load(sent + row) == 0:
            return
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    position = tl.load(positions + row * size + i, mask=i < size, other=0)
    tl.store(target + row * target_stride + position, tl.zeros((BLOCK,), dtype=tl.float32), mask=i < size)


@triton.jit
def _squared_distance(left, right, partial, left_stride, right_stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(left + row * left_stride + i, mask=i < size, other=0.0)
    b = tl.load(right + row * right_stride + i, mask=i < size, other=0.0)
    tl.store(partial + row * tl.num_programs(1) + tl.program_id(1), tl.sum((a - b) * (a - b), axis=0))


def _grid(target: Tensor) -> tuple[int, int]:
    return len(target), triton.cdiv(target.shape[1], BLOCK)  # rows first: a `source` [n] is read once


def copy_rows_(target: Tensor, source: Tensor, sent: Tensor) -> None:
    """target[m] = source[m] (or `source` [n]) for the rows that send."""
    stride = source.stride(0) if source.dim() == 2 else 0
    _copy[_grid(target)](target, source, sent.view(torch.uint8), target.stride(0), stride, target.shape[1], BLOCK=BLOCK)


def clear_(target: Tensor, positions: Tensor, sent: Tensor | None) -> None:
    """target[m, positions[m]] = 0 for the rows that send; positions [W, K], contiguous."""
    flags = positions if sent is None else sent.view(torch.uint8)
    size = positions.shape[1]
    _clear[len(target), triton.cdiv(size, 1024)](
        target, positions, flags, target.stride(0), size, MASKED=sent is not None, BLOCK=1024
    )


def squared_distance(left: Tensor, right: Tensor) -> Tensor:
    """|| left[m] - right[m] ||^2 by row, [W]; in one pass, always added in the same order."""
    grid = _grid(left)
    partial = torch.empty(grid, device=left.device)
    _squared_distance[grid](left, right, partial, left.stride(0), right.stride(0), left.shape[1], BLOCK=BLOCK)
    return partial.sum(1)
