"""What does the server apply?"""

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.cluster import Payload, Reply, Update, Uploads
from sasg.rows import copy_rows_, sum_in_order


class Aggregation(Part):
    """The server's side: payloads of all M workers -> update [d]. Lives in the server's process alone.

    reply: the form in which its result is sent to the workers.
    scaled: what the step size must multiply, if that is not free; see `Composed`.
    rate: see `Feedback`.
    """

    reply: Reply = Update()
    scaled: ClassVar[str | None] = None
    rate: float | None = None

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.num_parameters = workspace.num_parameters
        self.num_workers = workspace.cluster.num_workers
        self._total: Tensor | None = None  # [d], the memory of every sum of sparse payloads

    @abstractmethod
    def __call__(self, arriving: Iterable[Uploads]) -> Tensor:
        """The sum of payloads as an update [d], from the uploads that arrive, in worker order.

        Its memory may be reused by the next call.
        """

    def _add(self, total: Tensor | None, values: Tensor, indices: Tensor | None) -> Tensor:
        """total + sum_m of rows [n, k] as a dense vector [d]; `total` is reused, None stands for zero.

        From zero, sparse rows are summed in the memory of the last such sum.
        """
        if indices is None:
            if total is None:
                return sum_in_order(values)
            for row in values:
                total.add_(row)
            return total
        if total is None:
            if self._total is None:
                self._total = values.new_empty(self.num_parameters)
            total = self._total.zero_()
        return total.index_add_(0, indices.flatten(), values.flatten())


class SumOfUploads(Aggregation):
    """The sum of this iteration's uploads (SGD, Sparse)."""

    def __call__(self, arriving: Iterable[Uploads]) -> Tensor:
        total = None
        for uploads in arriving:
            payload = uploads.payload
            if payload.summed:
                return payload.values[0]
            total = self._add(total, payload.uploaded(uploads.sent), payload.indices)
        return total


class SumOfLatest(Aggregation):
    """The sum of everyone's latest upload: a worker that skips contributes its last one again (LASG, SASG).

    The server keeps M payloads: [M, d] for dense ones, [M, k] values and indices for sparse ones.
    """

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.latest_values: Tensor | None = None
        self.latest_indices: Tensor | None = None

    @property
    def server_state(self) -> tuple[str, ...]:
        return tuple(n for n in ("latest_values", "latest_indices") if getattr(self, n) is not None)

    def __call__(self, arriving: Iterable[Uploads]) -> Tensor:
        for uploads in arriving:
            self._store(uploads.workers, uploads.payload, uploads.sent)
        return self._add(None, self.latest_values, self.latest_indices)

    def _store(self, workers: slice, payload: Payload, sent: Tensor | None) -> None:
        assert payload.count is None
        if payload.lasting and len(payload.values) == self.num_workers:
            self._adopt(payload, sent)
            return
        if self.latest_values is None:
            self.latest_values = payload.values.new_zeros(self.num_workers, payload.values.shape[1])
            if payload.indices is not None:
                self.latest_indices = torch.zeros_like(self.latest_values, dtype=payload.indices.dtype)
        copy_rows_(self.latest_values[workers], payload.values, sent)
        if payload.indices is not None:
            copy_rows_(self.latest_indices[workers], payload.indices, sent)

    def _adopt(self, payload: Payload, sent: Tensor | None) -> None:
        """Use all workers' lasting, dense payloads instead of a copy of them."""
        if self.latest_values is payload.values:
            return
        if self.latest_values is not None and sent is not None:  # it came from a checkpoint
            copy_rows_(payload.values, self.latest_values, ~sent)
        self.latest_values = payload.values
