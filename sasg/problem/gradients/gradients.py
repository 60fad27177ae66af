"""The gradients of W workers on one mini-batch each, dense or as the factors that they are products of."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sasg.rows import Leave, Products, has_kernels, sending


class Gradients(ABC):
    """Mini-batch mean gradients of W workers. `sent` [W] selects rows; None selects all."""

    @abstractmethod
    def squared_distance(self, other: "Gradients") -> Tensor:
        """|| g_m - other_m ||^2 by worker, [W]; `other` is of the same kind, on the same mini-batches."""

    @abstractmethod
    def write_(self, target: Tensor, scale: Tensor, sent: Tensor | None) -> None:
        """target[m] = scale * g_m for the rows that send; target [W, d], scale a scalar. On a GPU others may change."""

    @abstractmethod
    def add_(self, target: Tensor, scale: Tensor, sent: Tensor | None, leave: Leave | None = None) -> Products:
        """target[m] += scale * g_m for the rows that send; target [W, d], scale a scalar.

        leave: which parts are not added where they are products; these are returned instead.
        """

    @abstractmethod
    def dense(self) -> Tensor:
        """All rows, [W, d]."""


class DenseGradients(Gradients):
    """A tensor [W, d]; or [1, d], the sum over workers."""

    def __init__(self, values: Tensor):
        self.values = values

    def squared_distance(self, other: Gradients) -> Tensor:
        if has_kernels(self.values):
            from sasg.gpu import rows

            return rows.squared_distance(self.values, other.dense())
        return (self.values - other.dense()).square_().sum(1)

    def write_(self, target: Tensor, scale: Tensor, sent: Tensor | None) -> None:
        if target.is_cuda or sent is None:
            torch.mul(self.values, scale, out=target)
        else:
            for m in sending(sent, len(target)):
                torch.mul(self.values[m], scale, out=target[m])

    def add_(self, target: Tensor, scale: Tensor, sent: Tensor | None, leave: Leave | None = None) -> Products:
        if target.is_cuda:
            target.addcmul_(self.values, scale if sent is None else torch.where(sent, scale, 0).unsqueeze(1))
        else:
            for m in sending(sent, len(target)):
                target[m].add_(self.values[m], alpha=float(scale))
        return {}

    def dense(self) -> Tensor:
        return self.values


@dataclass(frozen=True)
class Factors:
    """Of one linear layer: weight gradient delta^T x, bias gradient sum_b delta_b, for each worker.

    x: [W, B, in] inputs; delta: [W, B, out] derivatives of the mean loss by the layer's outputs;
    weight_offset, bias_offset: where the tensors start in the flat vector (bias: None without one).
    """

    x: Tensor
    delta: Tensor
    weight_offset: int
    bias_offset: int | None


class FactoredGradients(Gradients):
    """Gradients of linear layers, multiplied out only where a row is used.

    Memory traffic decides the time on a CPU: the distances need no gradient at all (Gram matrices of the
    factors, as in ghost clipping), and gradients go straight into the rows that they are added to.
    """

    def __init__(self, factors: list[Factors], num_parameters: int):
        self.factors = factors
        self.num_parameters = num_parameters

    def squared_distance(self, other: "FactoredGradients") -> Tensor:
        total = 0
        for mine, others in zip(self.factors, other.factors, strict=True):
            # D^T X - E^T Y = (D - E)^T X + E^T (X - Y): no difference of nearly equal products
            delta = mine.delta - others.delta
            left, right = delta, mine.x
            if mine.x.data_ptr() != others.x.data_ptr():
                left, right = torch.cat([delta, others.delta], 1), torch.cat([mine.x, mine.x - others.x], 1)
            total = total + _gram(left).mul_(_gram(right)).sum((1, 2))
            if mine.bias_offset is not None:
                total = total + delta.sum(1).square().sum(1)
        return total.clamp_(min=0)

    def write_(self, target: Tensor, scale: Tensor, sent: Tensor | None) -> None:
        self._accumulate(target, scale, sent, keep=False)

    def add_(self, target: Tensor, scale: Tensor, sent: Tensor | None, leave: Leave | None = None) -> Products:
        return self._accumulate(target, scale, sent, keep=True, leave=leave)

    def dense(self) -> Tensor:
        like = self.factors[0].x
        rows = like.new_empty(len(like), self.num_parameters)
        self.write_(rows, like.new_ones(()), None)
        return rows

    def among(self, num_rows: int, rows: Tensor) -> "FactoredGradients":
        """These gradients as `rows` [n] of `num_rows`; the other ones are zero."""

        def spread(factor: Tensor) -> Tensor:
            return factor.new_zeros(num_rows, *factor.shape[1:]).index_copy_(0, rows, factor)

        factors = [replace(f, x=spread(f.x), delta=spread(f.delta)) for f in self.factors]
        return FactoredGradients(factors, self.num_parameters)

    def _accumulate(
        self, target: Tensor, scale: Tensor, sent: Tensor | None, keep: bool, leave: Leave | None = None
    ) -> Products:
        products: Products = {}
        for f in self.factors:
            delta, x = (f.delta * scale).contiguous(), f.x.contiguous()
            totals = delta.sum(1)
            shape = (delta.shape[2], f.x.shape[2])
            size = shape[0] * shape[1]
            leaves = leave is not None and leave(f.weight_offset, size, delta.shape[1])
            if leaves:
                products[f.weight_offset] = delta, x
            for m in sending(sent, len(target)):
                if not leaves:
                    weight = target[m, f.weight_offset : f.weight_offset + size].view(shape)
                    write_product_(weight, delta[m], x[m], keep)
                if f.bias_offset is not None:
                    bias = target[m, f.bias_offset : f.bias_offset + shape[0]]
                    bias.add_(totals[m]) if keep else bias.copy_(totals[m])
        return products


def write_product_(target: Tensor, left: Tensor, right: Tensor, keep: bool = False) -> None:
    """target [o, i] = (keep: target +) left^T right, on the CPU; left [B, o], right [B, i], all contiguous.

    Where it is compiled, every entry is summed in the same order, so that equal columns of `right` give equal columns
    of the result: ties stay ties. BLAS promises no such thing, and on some processors does otherwise at the edges.
    """
    from sasg.kernels import scan  # numba takes long to import

    if len(left) <= scan.MAX_TERMS:
        scan.add(len(left))(target.view(-1).numpy(), left.numpy(), right.numpy(), keep)
    else:
        torch.addmm(target, left.t(), right, beta=keep, out=target)


def _gram(rows: Tensor) -> Tensor:
    """rows [W, n, i] -> [W, n, n], each worker's product by itself."""
    products = rows.new_empty(len(rows), rows.shape[1], rows.shape[1])
    for own, product in zip(rows, products, strict=True):
        torch.mm(own, own.t(), out=product)
    return products
