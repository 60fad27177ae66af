"""The composed family: a method as four answers (SGD, Sparse, LASG, SASG are the corners of a square)."""

from collections.abc import Iterable
from typing import Literal

from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.aggregation import Aggregation, SumOfLatest
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.downlink import Downlink
from sasg.algorithms.parts.feedback import ErrorMemory, Feedback
from sasg.algorithms.parts.momentum_memory import MomentumMemory
from sasg.algorithms.parts.optimisers import Optimiser
from sasg.algorithms.parts.triggers import Trigger
from sasg.cluster import Payload, Update, Uploads
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.parts import build


class Composed(Algorithm):
    """When a worker uploads (trigger), what (compressor), what it remembers (feedback), what the server applies.

    reduction: "sum": the server adds the workers' step-size-scaled updates (published code); "mean": it averages
    them, and workers scale by M times the step size, which gives the same trajectory.
    scaled: what the step size gamma multiplies. "uploads": each gradient before it is compressed (published code), so
    that an error memory and a latest upload keep the step size of their time. "update": the sum of what was uploaded;
    workers then exchange gradients, and `reduction` makes no difference.
    optimiser: an `Optimiser`, which gets the server's sum in units of a mean gradient, G = sum / (M gamma) (or
    sum / M, where the update is scaled), and w falls by M gamma times what it makes of G. None: by M gamma G.
    downlink: a `Compressor` of what the server returns to all workers, see `downlink.Downlink`. None: it goes as it is.
    """

    def __init__(
        self,
        trigger: dict,
        compressor: dict,
        feedback: dict,
        aggregation: dict,
        reduction: Literal["sum", "mean"] = "sum",
        scaled: Literal["uploads", "update"] = "uploads",
        optimiser: dict | None = None,
        downlink: dict | None = None,
    ):
        self.trigger: Trigger = build("algorithm.trigger", trigger, Trigger)
        self.compressor: Compressor = build("algorithm.compressor", compressor, Compressor)
        self.feedback: Feedback = build("algorithm.feedback", feedback, Feedback)
        self.aggregation: Aggregation = build("algorithm.aggregation", aggregation, Aggregation)
        self.reduction, self.scaled = reduction, scaled
        self.optimiser: Optimiser | None = None
        if optimiser is not None:
            self.optimiser = build("algorithm.optimiser", optimiser, Optimiser)
        self.downlink: Downlink | None = None
        if downlink is not None:
            self.downlink = Downlink(build("algorithm.downlink", downlink, Compressor))
        self.num_published_models = self.trigger.num_published_models
        if isinstance(self.feedback, (ErrorMemory, MomentumMemory)) and self.compressor.no_memory:
            raise UserError(f"algorithm: {self.compressor.no_memory}")
        if isinstance(self.aggregation, SumOfLatest) and self.compressor.no_latest:
            raise UserError(f"algorithm: {self.compressor.no_latest}")
        if self.feedback.rate != self.aggregation.rate:
            kinds = f"{type(self.feedback).__name__} and {type(self.aggregation).__name__}"
            raise UserError(f"algorithm: {kinds} must keep the same estimate of gradients, at one rate, or none")
        if self.aggregation.scaled not in (None, scaled):
            kind = type(self.aggregation).__name__
            raise UserError(f"algorithm.scaled={scaled}: {kind} needs scaled={self.aggregation.scaled}")

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()
        self._averages = self.reduction == "mean" and self.scaled == "uploads"
        self._server_scale = 1 / self.cluster.num_workers if self._averages else 1.0
        self._to_mean_gradient = workspace.zeros()  # what multiplies a sum for the optimiser
        self._update_scale = workspace.zeros()  # what multiplies what the server returns, unless uploads are scaled
        for option in ("optimiser", "downlink"):
            if getattr(self, option) is not None and not isinstance(self.aggregation.reply, Update):
                kind = type(self.aggregation).__name__
                raise UserError(f"algorithm.{option}: {kind} gives no sum of gradients; leave the {option} out")
        if self.feedback.needs_positions and self.compressor.num_kept is None:
            kinds = f"{type(self.feedback).__name__} needs a compressor of some entries, as TopK"
            raise UserError(f"algorithm: {kinds}; {type(self.compressor).__name__} sends all")
        lent = self.aggregation.expect(self.compressor.num_kept)
        if lent is not None and self.compressor.returns_input:
            self.feedback.write_to(lent)

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        step_size, num_workers = schedule(epoch), self.cluster.num_workers
        scale_of_uploads = step_size / self._server_scale if self.scaled == "uploads" else 1.0
        self.step_size.fill_(scale_of_uploads)
        self._to_mean_gradient.fill_(1 / (num_workers * scale_of_uploads))
        factor = 1 if self.optimiser is None else num_workers * self.optimiser.scale
        self._update_scale.fill_(step_size * factor)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        gradients = oracle(parameters)
        self.sent = self.trigger(gradients, parameters, oracle)
        self.difference, self.threshold = self.trigger.difference, self.trigger.threshold
        payload = self.feedback(gradients, self.step_size, self.compressor, self.sent)
        self.trigger.observe(self.apply_(parameters, self._exchange(payload, parameters)))

    def _exchange(self, payload: Payload, parameters: Tensor) -> Tensor:
        """The update [d] after this upload."""
        reply = self.aggregation.reply if self.downlink is None else self.downlink.reply
        returned = self.cluster.exchange(payload, self.sent, lambda arriving: self._server(arriving, parameters), reply)
        is_update = self.scaled == "uploads" and self.optimiser is None
        return returned if is_update else returned * self._update_scale

    def _server(self, arriving: Iterable[Uploads], parameters: Tensor) -> Tensor | Payload:
        update = self._update(arriving, parameters)
        return update if self.downlink is None else self.downlink(update)

    def _update(self, arriving: Iterable[Uploads], parameters: Tensor) -> Tensor:
        total = self.aggregation(arriving)
        if self.optimiser is not None:
            return self.optimiser(total * self._to_mean_gradient, parameters)
        return total if self._server_scale == 1.0 else total.mul_(self._server_scale)
