"""What methods ask for, and what they get: the interfaces that algorithms and engines share."""

from typing import Protocol

from torch import Tensor


class Gradients(Protocol):
    """Mini-batch mean gradients g_m of the W workers held here; `sent` [W] selects rows, None all."""

    def squared_distance(self, other: "Gradients") -> Tensor:
        """|| g_m - other_m ||^2 by worker, [W]; `other` is of the same mini-batches."""

    def write_(self, target: Tensor, scale: Tensor, sent: Tensor | None) -> None:
        """target[m] = scale * g_m for the rows that send; target [W, d], scale a scalar. On a GPU others may change."""

    def add_(self, target: Tensor, scale: Tensor, sent: Tensor | None, entries: slice | None = None) -> None:
        """target[m] += scale * g_m for the rows that send; target [W, d], scale a scalar.

        entries: these alone, whole parameter tensors; on the CPU.
        """

    def product(self, entries: slice) -> tuple[Tensor, Tensor] | None:
        """left [W, B, o] and right [W, B, i], if `entries` of g_m are the product left[m]^T right[m], row by row."""

    def dense(self) -> Tensor:
        """All rows, [W, d]."""


class Oracle(Protocol):
    """Gradients on the current mini-batch of each worker held here.

    A training pass is the first on a mini-batch: its losses and batch statistics count. Its result is valid until
    `advance`, that of others until the next call.
    """

    def __call__(self, parameters: Tensor) -> Gradients:
        """Gradients at `parameters` [d], or at each worker's own [W, d]; a training pass if it is the first."""

    def at(self, past: Tensor, rows: Tensor) -> Gradients:
        """Gradients at past[rows[m]] of worker m; past [H, d], as it was when the iteration began; rows [W] int64.

        No training pass; on a GPU it runs beside it.
        """

    def of(self, parameters: Tensor, asked: Tensor) -> Gradients:
        """As a call, of the workers `asked` [W] bool alone: the others have no pass, and on the CPU it costs nothing.

        parameters: [d] or [W, d]. Only with one mini-batch in an iteration.
        """

    def total(self, parameters: Tensor) -> Tensor:
        """The sum [d] of the gradients of the workers held here at `parameters` [d], the training pass."""

    def advance(self) -> None:
        """Go on to each worker's next mini-batch of the epoch: `local_steps` - 1 times in every iteration."""
