"""The gradients of W workers on one mini-batch each, dense or as the factors that they are products of."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sasg.kernels.rows import aligned, has_kernels, sending


class DenseGradients:
    """A tensor [W, d]."""

    def __init__(self, values: Tensor):
        self.values = values

    def squared_distance(self, other: "DenseGradients") -> Tensor:
        if has_kernels(self.values):
            from sasg.kernels import triton_rows as rows

            return rows.squared_distance(self.values, other.dense())
        return (self.values - other.dense()).square_().sum(1)

    def write_(self, target: Tensor, scale: Tensor, sent: Tensor | None) -> None:
        if target.is_cuda or sent is None:
            torch.mul(self.values, scale, out=target)
        else:
            for m in sending(sent, len(target)):
                torch.mul(self.values[m], scale, out=target[m])

    def add_(self, target: Tensor, scale: Tensor, sent: Tensor | None, entries: slice | None = None) -> None:
        if target.is_cuda:
            target.addcmul_(self.values, scale if sent is None else torch.where(sent, scale, 0).unsqueeze(1))
            return
        part = entries or slice(None)
        for m in sending(sent, len(target)):
            target[m, part].add_(self.values[m, part], alpha=float(scale))

    def product(self, entries: slice) -> None:
        return None

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

    @property
    def weight_entries(self) -> slice:
        return slice(self.weight_offset, self.weight_offset + self.delta.shape[2] * self.x.shape[2])

    @property
    def bias_entries(self) -> slice | None:
        return None if self.bias_offset is None else slice(self.bias_offset, self.bias_offset + self.delta.shape[2])


class FactoredGradients:
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

    def add_(self, target: Tensor, scale: Tensor, sent: Tensor | None, entries: slice | None = None) -> None:
        self._accumulate(target, scale, sent, keep=True, entries=entries)

    def product(self, entries: slice) -> tuple[Tensor, Tensor] | None:
        return next(((f.delta, f.x) for f in self.factors if f.weight_entries == entries), None)

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
        self, target: Tensor, scale: Tensor, sent: Tensor | None, keep: bool, entries: slice | None = None
    ) -> None:
        rows = sending(sent, len(target))
        for f in self.factors:
            weight, bias = (part if _holds(entries, part) else None for part in (f.weight_entries, f.bias_entries))
            if weight is None and bias is None:
                continue
            delta, x = aligned(f.delta * scale), aligned(f.x)
            if weight is not None:
                for m in rows:
                    write_product_(target[m, weight].view(delta.shape[2], x.shape[2]), delta[m], x[m], keep)
            if bias is not None:
                totals = delta.sum(1)
                for m in rows:
                    target[m, bias].add_(totals[m]) if keep else target[m, bias].copy_(totals[m])


def _holds(entries: slice | None, part: slice | None) -> bool:
    """Whether a parameter tensor's entries `part` (None: there is no such tensor) are among `entries` (None: all)."""
    return part is not None and (entries is None or entries.start <= part.start < entries.stop)


def write_product_(target: Tensor, left: Tensor, right: Tensor, keep: bool = False) -> None:
    """target [o, i] = (keep: target +) left^T right, on the CPU; left [B, o], right [B, i], all contiguous.

    Where it is compiled, every entry is summed in the same order, so that equal columns of `right` give equal columns
    of the result: ties stay ties. BLAS promises no such thing, and on some processors does otherwise at the edges.
    """
    from sasg.kernels import scan  # numba takes long to import

    if len(left) <= scan.MAX_TERMS:
        scan.add(len(left))(target.view(-1).numpy(), left.numpy(), right.numpy(), keep)
    else:
        product = torch.mm(left.t(), right)  # in memory of its own: see `aligned`
        target.add_(product) if keep else target.copy_(product)


def _gram(rows: Tensor) -> Tensor:
    """rows [W, n, i] -> [W, n, n], each worker's product by itself."""
    products = rows.new_empty(len(rows), rows.shape[1], rows.shape[1])
    for own, product in zip(aligned(rows), products, strict=True):
        torch.mm(own, own.t(), out=product)
    return products
