"""Distributed SGD."""

from typing import Literal

from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.gradients import Oracle


class SGD(Algorithm):
    """w <- w - gamma sum_m g_m(w): everyone uploads its whole gradient in every iteration.

    reduction: as of `composed.Composed`, which gives the same trajectory with its plainest parts.
    """

    num_published_models = 1

    def __init__(self, reduction: Literal["sum", "mean"] = "sum"):
        self.reduction = reduction

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()
        self._server_scale = 1.0 if self.reduction == "sum" else 1 / self.cluster.num_workers
        self._scaled: Tensor | None = None  # [W, d], where each worker's is needed

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch) / self._server_scale)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        def rows() -> Tensor:
            gradients = oracle(parameters)
            if self._scaled is None:
                self._scaled = parameters.new_zeros(len(self.cluster.workers), len(parameters))
            gradients.write_(self._scaled, self.step_size, None)
            return self._scaled

        update = self.cluster.sum(rows, lambda: self.step_size * oracle.total(parameters))
        self.apply_(parameters, update if self.reduction == "sum" else update.mul_(self._server_scale))
