"""The rows [W, ...] of the workers that send.

Which rows these are depends on data. On a GPU they are masks, or kernels look at the flags, so that nothing
waits for the host; on the CPU, where looking at a flag is free, the other rows are skipped. What is to be added to rows
may come as products, which whoever reads the rows anyway multiplies out.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

Products = dict[int, tuple[Tensor, Tensor]]
"""start -> left [W, B, o], right [W, B, i]: left[m]^T right[m] belongs to entries start, start + 1, ... of row m."""

Leave = Callable[[int, int, int], bool]
"""(start, size o * i, number of terms B) of a product -> whether somebody else adds it."""


def sending(sent: Tensor | None, num_held: int) -> list[int]:
    """The rows that send, on the CPU; all of them if `sent` is None."""
    return list(range(num_held)) if sent is None else sent.nonzero().flatten().tolist()


def copy_rows_(target: Tensor, source: Tensor, sent: Tensor | None) -> None:
    """target[m] = source[m] (or `source`, where it has no leading axis) for the rows that send, or are chosen so."""
    if sent is None:
        target.copy_(source)
    elif has_kernels(target):
        from sasg.gpu import rows

        rows.copy_rows_(target, source, sent)
    elif target.is_cuda:
        torch.where(sent.view(-1, *[1] * (target.dim() - 1)), source, target, out=target)
    else:
        rows, new = target.numpy(), source.numpy()
        for m in sending(sent, len(rows)):
            rows[m] = new[m] if new.ndim == rows.ndim else new


def squared_distances(left: Tensor, right: Tensor, sent: Tensor | None = None) -> Tensor:
    """|| left[m] - right[m] ||^2 (or - right, where it has no leading axis), [W]; of rows that do not send anything."""
    if left.is_cuda:
        return (left - right).square_().sum(1)
    distances = left.new_zeros(len(left))
    for m in sending(sent, len(left)):  # one row after another stays in the cache
        distances[m] = torch.dist(left[m], right[m] if right.dim() == 2 else right).square()
    return distances


def has_kernels(target: Tensor) -> bool:
    """Whether `sasg.gpu` works on this tensor."""
    return target.is_cuda and target.dim() == 2 and target.dtype in (torch.float32, torch.int64) and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
