"""The interface that all engines of per-worker gradients share."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sasg.gradients.forms import FactoredGradients
from sasg.gradients.layout import Layout
from sasg.gradients.normalisation import expose_batch_statistics, statistics_layout

PerSampleLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [n, ...], targets [n]) -> loss of each sample [n]."""


class Engine(ABC):
    """Gradients of one model at given parameters, for several workers at once.

    Shapes: W workers, B samples each, d parameters (`layout`), s BatchNorm statistics (`statistics`).
    A worker's loss is the mean over its own B samples, and BatchNorm normalises with them alone. A parameter that a
    loss does not depend on has the gradient zero.
    """

    def __init__(self, model: nn.Module, loss: PerSampleLoss):
        self.loss = loss
        self.model = copy.deepcopy(model).train()
        self.layout = Layout.of_parameters(self.model)
        self.statistics = statistics_layout(self.model)
        expose_batch_statistics(self.model)

    @abstractmethod
    def per_worker(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        """Loss [W] of each worker; its gradient overwrites its row of `out` [W, d].

        parameters: [d], the same for all, or [W, d], each worker's own; x: [W, B, ...]; y: [W, B].
        `statistics` [W, s] is overwritten with the batch mean and unbiased variance of every BatchNorm.
        """

    def total(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        """Loss [W]; the sum over workers of their gradients overwrites `out` [d]. parameters: [d]."""
        gradients = out.new_empty(len(x), self.layout.size)
        loss = self.per_worker(parameters, x, y, gradients, statistics)
        torch.sum(gradients, dim=0, out=out)
        return loss

    def can_factor(self, x: Tensor) -> bool:
        """Whether `factored` works for this model and pays for mini-batches x [W, B, ...]."""
        return False

    def factored(
        self, parameters: Tensor, x: Tensor, y: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, FactoredGradients]:
        """Loss [W], and the gradients as factors instead of rows.

        rows: [W] int64, worker m's parameters are parameters[rows[m]]; None: parameters are [d] or [W, d].
        """
        raise NotImplementedError
