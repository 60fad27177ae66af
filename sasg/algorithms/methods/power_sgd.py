"""PowerSGD: gradients as products of thin matrices, which are averaged as they are."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.aggregation import SumOfUploads
from sasg.algorithms.parts.draws import Draws
from sasg.algorithms.parts.optimisers import Optimiser
from sasg.cluster import Payload, Uploads, Values
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import aligned, of_each
from sasg.parts import build


@dataclass(frozen=True)
class Matrix:
    """Where a matrix [out, rest] lies in the flat vector, and its factors [out, r] and [rest, r] in those of all."""

    shape: tuple[int, int]
    rank: int
    start: int
    left_start: int
    right_start: int

    def of(self, vectors: Tensor) -> Tensor:
        """[..., d] -> [..., out, rest], a view."""
        return _view(vectors, self.start, self.shape)

    def left(self, factors: Tensor) -> Tensor:
        """P [out, r], a view."""
        return _view(factors, self.left_start, (self.shape[0], self.rank))

    def right(self, factors: Tensor) -> Tensor:
        """Q [rest, r], a view."""
        return _view(factors, self.right_start, (self.shape[1], self.rank))


class PowerSGD(Algorithm):
    """Gradients of rank r (Vogels, Karimireddy, Jaggi 2019, arXiv 1905.13727).

    Of every parameter tensor as a matrix [out, rest], with e_m = 0 at first and Q [rest, r] of the last iteration:

        D_m = g_m + e_m
        Exchange: everyone uploads D_m Q;    P = (1/M) sum_m D_m Q, with its columns made orthonormal by the server
        Exchange: everyone uploads D_m^T P;  Q = (1/M) sum_m D_m^T P
        D' = P Q^T;  e_m = D_m - D';  w <- w - M gamma D', or the direction that the optimiser makes of all D'

    Tensors of less than two axes, and matrices whose factors would be no shorter, are averaged as they are: they go
    along in the first exchange. The first Q is drawn evenly from [-1, 1), the same everywhere. A column of Q that
    becomes zero (D' = 0, in a layer that gets no gradient yet) stays as it was, as it could never change again.

    Options
    -------
    rank: r >= 1; larger is more exact, and sends r (out + rest) numbers of each matrix.
    optimiser: an `Optimiser`, which every process keeps, as all know D'; null: none.
    """

    def __init__(self, rank: int, optimiser: dict | None = None):
        if rank < 1:
            raise UserError(f"rank={rank}: must be at least 1")
        self.rank = rank
        self.draws = Draws()
        self.sum = SumOfUploads()
        self.optimiser: Optimiser | None = None
        if optimiser is not None:
            self.optimiser = build("algorithm.optimiser", optimiser, Optimiser)
            self.optimiser.place = "shared"

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        d = workspace.num_parameters
        self.step_size = workspace.zeros()  # M gamma, times the optimiser's scale
        memory = aligned(workspace.zeros(workspace.num_held, d))
        self.memory = self.register_state("memory", memory, "worker")  # e_m
        self._matrices, self._whole = split(workspace.shapes, self.rank)
        self._num_left = sum(matrix.shape[0] * matrix.rank for matrix in self._matrices)
        num_right = sum(matrix.shape[1] * matrix.rank for matrix in self._matrices)
        first = self.draws.shared(num_right).mul_(2).sub_(1)
        self.factors = self.register_state("factors", first, "shared")  # Q of all matrices
        num_whole = sum(part.stop - part.start for part in self._whole)
        self._first, self._second = Values(self._num_left + num_whole), Values(num_right)
        self._mean_gradient = workspace.zeros(d)  # D'
        self._one = workspace.zeros() + 1

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        scale = 1.0 if self.optimiser is None else self.optimiser.scale
        self.step_size.fill_(schedule(epoch) * self.cluster.num_workers * scale)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        oracle(parameters).add_(self.memory, self._one, None)  # D_m
        left = self.cluster.exchange(self._left_factors(), None, self._orthonormal, self._first).clone()
        self._take_whole(left[self._num_left :])
        if self._matrices:
            right = self.cluster.exchange(self._right_factors(left), None, self._mean, self._second)
            self._multiply_out(left, right)
        direction = self._mean_gradient
        if self.optimiser is not None:
            direction = self.optimiser(direction, parameters)
        self.apply_(parameters, direction * self.step_size)

    def _left_factors(self) -> Payload:
        """D_m Q of all matrices, then the tensors that are sent whole."""
        parts = [_products(matrix.of(self.memory), matrix.right(self.factors)) for matrix in self._matrices]
        return Payload(torch.cat([*parts, *(self.memory[:, part] for part in self._whole)], 1))

    def _right_factors(self, left: Tensor) -> Payload:
        """D_m^T P of all matrices."""
        parts = [_products(matrix.of(self.memory).transpose(1, 2), matrix.left(left)) for matrix in self._matrices]
        return Payload(torch.cat(parts, 1))

    def _mean(self, arriving: Iterable[Uploads]) -> Tensor:
        return self.sum(arriving).div_(self.cluster.num_workers)

    def _orthonormal(self, arriving: Iterable[Uploads]) -> Tensor:
        mean = self._mean(arriving)
        for matrix in self._matrices:
            orthonormalise_(matrix.left(mean))
        return mean

    def _take_whole(self, means: Tensor) -> None:
        """Of tensors that are sent whole, D' is their mean, and nothing remains."""
        filled = 0
        for part in self._whole:
            size = part.stop - part.start
            self._mean_gradient[part] = means[filled : filled + size]
            self.memory[:, part] = 0
            filled += size

    def _multiply_out(self, left: Tensor, right: Tensor) -> None:
        """D' = P Q^T, e_m = D_m - D', and Q for the next iteration."""
        for matrix in self._matrices:
            new, kept = matrix.right(right), matrix.right(self.factors)
            product = matrix.left(left) @ new.t()
            matrix.of(self._mean_gradient).copy_(product)
            matrix.of(self.memory).sub_(product)
            kept.copy_(torch.where(new.any(0), new, kept))


def split(shapes: tuple[tuple[int, ...], ...], rank: int) -> tuple[list[Matrix], list[slice]]:
    """The tensors that are sent as factors of this rank, and the entries of the others."""
    matrices, whole = [], []
    start = left = right = 0
    for shape in shapes:
        size, out = prod(shape), shape[0] if shape else 1
        rest = size // max(out, 1)
        if len(shape) < 2 or rank * (out + rest) >= size:
            whole.append(slice(start, start + size))
        else:
            matrices.append(Matrix((out, rest), rank, start, left, right))
            left, right = left + out * rank, right + rest * rank
        start += size
    return matrices, whole


def orthonormalise_(columns: Tensor) -> None:
    """The columns of [n, r] by Gram-Schmidt, in place; a column of zeros stays one.

    Each twice: what rounding leaves of a column that depends on the others is made orthogonal to them, too.
    """
    smallest = torch.finfo(columns.dtype).tiny
    for j in range(columns.shape[1]):
        before, column = columns[:, :j], columns[:, j]
        for _ in range(2):
            column.sub_(before @ (before.t() @ column))
            column.div_(column.norm().clamp_(min=smallest))


def _products(matrices: Tensor, factor: Tensor) -> Tensor:
    """[W, n, k] by [k, r], flat: [W, n * r]."""
    return of_each(matrices, lambda rows: rows @ factor).flatten(1)


def _view(vectors: Tensor, start: int, shape: tuple[int, int]) -> Tensor:
    return vectors[..., start : start + shape[0] * shape[1]].unflatten(-1, shape)
