"""The composed family: a method as four answers (SGD, Sparse, LASG, SASG are the corners of a square)."""

from collections.abc import Iterable
from typing import Literal

from torch import Tensor

from sasg.algorithms.aggregation import Aggregation
from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.compressors import Compressor, Identity
from sasg.algorithms.feedback import ErrorMemory, Feedback
from sasg.algorithms.triggers import Trigger
from sasg.cluster import Uploads
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.parts import build


class Composed(Algorithm):
    """When a worker uploads (trigger), what (compressor), what it remembers (feedback), what the server applies.

    reduction: "sum": the server adds the workers' step-size-scaled updates (published code); "mean": it averages
    them, and workers scale by M times the step size, which gives the same trajectory.
    """

    def __init__(
        self,
        trigger: dict,
        compressor: dict,
        feedback: dict,
        aggregation: dict,
        reduction: Literal["sum", "mean"] = "sum",
    ):
        self.trigger: Trigger = build("algorithm.trigger", trigger, Trigger)
        self.compressor: Compressor = build("algorithm.compressor", compressor, Compressor)
        self.feedback: Feedback = build("algorithm.feedback", feedback, Feedback)
        self.aggregation: Aggregation = build("algorithm.aggregation", aggregation, Aggregation)
        self.reduction = reduction
        self.num_published_models = self.trigger.num_published_models
        if isinstance(self.feedback, ErrorMemory) and isinstance(self.compressor, Identity):
            raise UserError("algorithm: identity transmits everything, so an error memory stays empty; use NoFeedback")

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()
        self._server_scale = 1.0 if self.reduction == "sum" else 1 / self.cluster.num_workers
        lent = self.aggregation.expect(self.compressor.num_kept)
        if lent is not None and self.compressor.returns_input:
            self.feedback.write_to(lent)

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch) / self._server_scale)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        gradients = oracle(parameters)
        self.sent = self.trigger(gradients, parameters, oracle)
        self.difference, self.threshold = self.trigger.difference, self.trigger.threshold
        payload = self.feedback(gradients, self.step_size, self.compressor, self.sent)
        update = self.cluster.exchange(payload, self.sent, self._server)
        self.trigger.observe(self.apply_(parameters, update))

    def _server(self, arriving: Iterable[Uploads]) -> Tensor:
        update = self.aggregation(arriving)
        return update if self._server_scale == 1.0 else update.mul_(self._server_scale)
