"""Chunks of tensors as sums of cosines: the DCT-II, orthonormal."""

from collections.abc import Callable
from math import isqrt, pi, prod
from typing import NamedTuple

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.cluster import Segment
from sasg.kernels.precision import whole_precision
from sasg.kernels.rows import aligned, of_each


class _Grid(NamedTuple):
    """A tensor as a matrix of [rows * height, columns * width] entries, cut into rows * columns chunks."""

    rows: int
    height: int
    columns: int
    width: int
    left: Tensor  # the transform along the height, [height, height]
    right: Tensor  # and along the width, [width, width]


class CosineChunks:
    """The coefficients of each chunk of at most [side, side] entries of each tensor.

    A tensor of several axes is the matrix [first axis, all others]; one of a single axis is a matrix of one row, so
    that its chunks are pieces of it. A side that does not divide an axis becomes the largest divisor below it.
    Coefficients [W, d] stand chunk after chunk, in the order of the tensors and row by row; a chunk's own too, the
    lowest frequencies first. A row's bits do not depend on the others.
    """

    def __init__(self, workspace: Workspace, side: int):
        self._sizes = workspace.sizes
        self._grids = [_grid(shape, side, workspace) for shape in workspace.shapes]

    def segments(self, kept: int) -> tuple[Segment, ...]:
        """Of the coefficients, a segment for each chunk, of which `kept` are uploaded, or all if it has no more."""
        chunks = [(g.rows * g.columns, g.height * g.width) for g in self._grids]
        return tuple(Segment(size, min(kept, size)) for number, size in chunks for _ in range(number))

    def coefficients(self, vectors: Tensor) -> Tensor:
        """Of `vectors` [W, d], which have the layout of the parameters: [W, d]."""
        return self._of_tensors(vectors, _coefficients)

    def vectors(self, coefficients: Tensor) -> Tensor:
        """The other way round: [W, d]."""
        return self._of_tensors(coefficients, _entries)

    def _of_tensors(self, rows: Tensor, function: Callable[[Tensor, _Grid], Tensor]) -> Tensor:
        def of_all(rows: Tensor) -> Tensor:
            parts = zip(rows.split(self._sizes, 1), self._grids, strict=True)
            return torch.cat([function(part, grid).flatten(1) for part, grid in parts], 1)

        with whole_precision():
            return of_each(rows, of_all)


def _coefficients(entries: Tensor, grid: _Grid) -> Tensor:
    rows, height, columns, width, left, right = grid
    chunks = aligned(entries.unflatten(1, (rows, height, columns, width)).transpose(2, 3))
    return left @ (chunks @ right.t())


def _entries(coefficients: Tensor, grid: _Grid) -> Tensor:
    rows, height, columns, width, left, right = grid
    chunks = aligned(coefficients.unflatten(1, (rows, columns, height, width)))
    return (left.t() @ (chunks @ right)).transpose(2, 3)


def _grid(shape: tuple[int, ...], side: int, workspace: Workspace) -> _Grid:
    first, rest = (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))
    height, width = largest_divisor(first, side), largest_divisor(rest, side)
    left, right = (transform(n).to(workspace.device, workspace.dtype) for n in (height, width))
    return _Grid(first // height, height, rest // width, width, left, right)


def transform(size: int) -> Tensor:
    """T [size, size], float64: T x are the coefficients of x [size], and T^T T = 1."""
    frequency, place = torch.arange(size, dtype=torch.float64).unsqueeze(1), torch.arange(size, dtype=torch.float64)
    rows = torch.cos(pi * (2 * place + 1) * frequency / (2 * size)) * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return rows


def largest_divisor(number: int, limit: int) -> int:
    """The largest one up to `limit`."""
    small = [n for n in range(1, isqrt(number) + 1) if number % n == 0]
    return max(n for n in (*small, *(number // n for n in small)) if n <= limit)
