"""Parts of the flat vector that are compressed on their own."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.kernels.rows import of_each

Scope = Literal["tensor", "vector"]
"""The parameter tensors, or the one whole vector."""


def segment_sizes(workspace: Workspace, scope: Scope) -> tuple[int, ...]:
    """Entries of each segment, in the order of the flat vector."""
    return workspace.sizes if scope == "tensor" else (workspace.num_parameters,)


def of_segments(vectors: Tensor, sizes: tuple[int, ...], statistic: Callable[[Tensor], Tensor]) -> Tensor:
    """statistic(rows [n, size]) -> [n] of every segment of `vectors` [W, d]: [W, number of segments]."""
    return of_each(vectors, lambda rows: torch.stack([statistic(part) for part in rows.split(sizes, 1)], 1))
