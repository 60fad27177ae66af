"""The rows [W, ...] of workers: of those that send, and by themselves.

Which rows these are depends on data. On a GPU they are masks, or kernels look at the flags, so that nothing
waits for the host; on the CPU, where looking at a flag is free, the other rows are skipped.

On the CPU a row is worked on by itself where its bits would depend on the shape of the whole: products and norms choose
an order of summation by it, and the last entries of a tensor go through the scalar version of a function, which
rounds otherwise than the vectorised one (the logarithm; a sum with a factor). So a worker's numbers do not depend on
which other rows its process holds. Sums along a row, and functions that are rounded correctly, do not either. Nor may
it matter where in memory a row begins: some BLAS code paths (MKL's for AMD) sum in an order that depends on it.
"""

from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

_CACHED = 32_768  # entries of a sum that stay in the cache
_ALIGNMENT = 64  # bytes: the widest vectors, and what torch's allocator gives


def sending(sent: Tensor | None, num_held: int) -> list[int]:
    """The rows that send, on the CPU; all of them if `sent` is None."""
    return list(range(num_held)) if sent is None else sent.nonzero().flatten().tolist()


def copy_rows_(target: Tensor, source: Tensor, sent: Tensor | None) -> None:
    """target[m] = source[m] (or `source`, where it has no leading axis) for the rows that send, or are chosen so."""
    if sent is None:
        target.copy_(source)
    elif has_kernels(target):
        from sasg.kernels import triton_rows as rows

        rows.copy_rows_(target, source, sent)
    elif target.is_cuda:
        torch.where(sent.view(-1, *[1] * (target.dim() - 1)), source, target, out=target)
    else:
        rows, new = target.numpy(), source.numpy()
        for m in sending(sent, len(rows)):
            rows[m] = new[m] if new.ndim == rows.ndim else new


def aligned(rows: Tensor) -> Tensor:
    """`rows` [W, ...] for BLAS to read: on the CPU each is contiguous and begins at a multiple of 64 bytes.

    Themselves where they do, else a copy.
    """
    starts = rows.data_ptr(), rows.stride(0) * rows.element_size()
    if rows.is_cuda or (rows[:1].is_contiguous() and not any(start % _ALIGNMENT for start in starts)):
        return rows
    size = rows.shape[1:].numel()
    step = _ALIGNMENT // rows.element_size()
    padded = rows.new_empty(len(rows), -(-size // step) * step)
    return padded[:, :size].view(rows.shape).copy_(rows)


def of_each(rows: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function(row [1, ...]) -> [1, ...] of each row of `rows` [W, ...], together [W, ...]; on a GPU of all at once."""
    return function(rows) if rows.is_cuda or len(rows) == 1 else torch.cat([function(row) for row in rows.split(1)])


def one_by_one(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Rows [d] of tensors [W, d] that belong together; a vector [d] among them belongs to every row.

    On a GPU, and where the first is a vector, the tensors as they are.
    """
    first = tensors[0]
    if first.is_cuda or first.dim() == 1:
        return [tensors]
    return zip(*(tensor.expand_as(first) for tensor in tensors), strict=True)


def add_rows_(target: Tensor, source: Tensor, alpha: float) -> None:
    """target[m] += alpha * source[m] (or * source, where it has no leading axis)."""
    if target.is_cuda:
        target.add_(source, alpha=alpha)
    else:
        for m, row in enumerate(target):
            row.add_(source[m] if source.dim() == target.dim() else source, alpha=alpha)


def squared_distances(left: Tensor, right: Tensor, sent: Tensor | None = None) -> Tensor:
    """|| left[m] - right[m] ||^2 (or - right, where it has no leading axis), [W]; of rows that do not send anything."""
    if left.is_cuda:
        return (left - right).square_().sum(1)
    distances = left.new_zeros(len(left))
    for m in sending(sent, len(left)):  # one row after another stays in the cache
        distances[m] = torch.dist(left[m], right[m] if right.dim() == 2 else right).square()
    return distances


def sum_in_order(rows: Tensor, total: Tensor | None = None) -> Tensor:
    """The sum [d] of rows [W, d], added to `total` in place if there is one.

    On the CPU, and to a total, one row after another, as when rows arrive one by one.
    """
    if total is not None:
        for row in rows:
            total.add_(row)
        return total
    if rows.is_cuda or len(rows) == 1:
        return rows.sum(0)
    total = torch.empty_like(rows[0])
    for part, columns in zip(total.split(_CACHED), rows.split(_CACHED, 1), strict=True):
        torch.add(columns[0], columns[1], out=part)
        for row in columns[2:]:
            part.add_(row)
    return total


def has_kernels(target: Tensor) -> bool:
    """Whether the Triton kernels work on this tensor."""
    return target.is_cuda and target.dim() == 2 and target.dtype in (torch.float32, torch.int64) and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
