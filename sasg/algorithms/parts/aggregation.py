"""What does the server apply?"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.cluster import Payload, Reply, Update, Uploads
from sasg.errors import ContractError
from sasg.kernels.rows import copy_rows_, sum_in_order


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

    def expect(self, num_kept: int | None) -> Tensor | None:
        """Told after set-up: uploads are of `num_kept` entries with indices, or (None) dense.

        Memory [W, d] in which the workers of this process may make their dense uploads, leaving rows that do not send
        as they are, so that nothing is copied; None: there is none to lend.
        """
        return None

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
            return sum_in_order(values, total)
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
            total = self._add(total, payload.uploaded(uploads.sent), payload.indices)
        return total


class MeanOfSenders(SumOfUploads):
    """M times the mean of this iteration's uploads, so that w moves as far however many upload; zero if nobody does."""

    def __call__(self, arriving: Iterable[Uploads]) -> Tensor:
        counts: list[Tensor | int] = []
        total = super().__call__(self._counted(arriving, counts))
        num_sent = total.new_zeros(()) + sum(counts)
        return total.mul_(self.num_workers / num_sent.clamp_(min=1))

    def _counted(self, arriving: Iterable[Uploads], counts: list[Tensor | int]) -> Iterator[Uploads]:
        for uploads in arriving:
            counts.append(len(uploads.payload.entries) if uploads.sent is None else uploads.sent.sum())
            yield uploads


class SumOfLatest(Aggregation):
    """The sum of everyone's latest upload: a worker that skips contributes its last one again (LASG, SASG).

    The server keeps M payloads: [M, d] for dense ones, [M, k] values and indices for sparse ones. A method that uses it
    calls `expect` in its `setup`. ContractError: it did not, or uploads are of a varying length.
    """

    latest_values: Tensor  # at the server, as is
    latest_indices: Tensor | None = None

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._workspace = workspace
        self._lent: Tensor | None = None

    def expect(self, num_kept: int | None) -> Tensor | None:
        workspace, cluster = self._workspace, self._workspace.cluster
        if not cluster.is_server:
            return None
        width = self.num_parameters if num_kept is None else num_kept
        values = self.register_state("latest_values", workspace.zeros(self.num_workers, width), "server")
        if num_kept is not None:
            indices = workspace.zeros(self.num_workers, width, dtype=torch.int64)
            self.register_state("latest_indices", indices, "server")
        elif not values.is_cuda:  # where all rows are written, also of those that do not send
            self._lent = values[cluster.workers.start : cluster.workers.stop]
        return self._lent

    def __call__(self, arriving: Iterable[Uploads]) -> Tensor:
        for uploads in arriving:
            self._store(uploads.workers, uploads.payload, uploads.sent)
        return self._add(None, self.latest_values, self.latest_indices)

    def _store(self, workers: slice, payload: Payload, sent: Tensor | None) -> None:
        if payload.values is self._lent and self._lent is not None:
            return
        if payload.count is not None or (payload.indices is None) != (self.latest_indices is None):
            raise ContractError("uploads of which the latest are summed must be as `expect` was told", self)
        copy_rows_(self.latest_values[workers], payload.values, sent)
        if self.latest_indices is not None:
            copy_rows_(self.latest_indices[workers], payload.indices, sent)
