"""Gradients on the current mini-batch, as methods ask for them."""

from collections.abc import Callable

import torch
from torch import Tensor

from sasg.problem.gradients import DenseGradients, Engine, Gradients
from sasg.problem.normalisation import RunningStatistics
from sasg.rows import add_rows_, copy_rows_


class Oracle:
    """Answers for the W workers held by this process, on one mini-batch each.

    The first call on a mini-batch is a training pass: its losses enter `loss` [W], their mean over the iteration,
    and its batch statistics BatchNorm's running ones. Later calls on the same mini-batch leave both alone.
    `weight_decay` adds weight_decay * parameters to every gradient, `penalty_gradient` what it gives for them.
    """

    def __init__(
        self,
        engine: Engine,
        running: RunningStatistics,
        num_held: int,
        weight_decay: float,
        like: Tensor,
        bfloat16: bool = False,
        penalty_gradient: Callable[[Tensor], Tensor] | None = None,
    ):
        """like: the parameters [d], for their type and device; bfloat16: run the passes under autocast."""
        self.bfloat16 = bfloat16
        self.engine = engine
        self.running = running
        self.weight_decay = weight_decay
        self.penalty_gradient = penalty_gradient
        self.loss = like.new_zeros(num_held)
        #: [W, s], of each worker's last training pass; those of other passes are ignored
        self.statistics, self._ignored = like.new_zeros(2, num_held, engine.statistics.size)
        self._buffers: dict[tuple[str, int], Tensor] = {}  # (purpose, rows) -> [rows, d], allocated when needed
        self._stream: torch.cuda.Stream | None = None

    def load(self, x: Tensor, y: Tensor) -> None:
        """Start an iteration on the mini-batches x [W, B, ...], y [W, B]."""
        self._num_training_passes = 0
        self.load_next(x, y)

    def load_next(self, x: Tensor, y: Tensor) -> None:
        """Go on to other mini-batches in the same iteration."""
        self._x, self._y = x, y
        self._is_training_pass = True
        if x.is_cuda:
            self._loaded = torch.cuda.current_stream().record_event()

    def __call__(
        self,
        parameters: Tensor,
        per_worker: bool = True,
        rows: Tensor | None = None,
        early: bool = False,
        sent: Tensor | None = None,
    ) -> Gradients:
        """Mini-batch mean gradients [W, d] at `parameters` [d] or [W, d], or their sum [1, d].

        rows: [W] int64, worker m's parameters are parameters[rows[m]], of `parameters` [H, d].
        early: `parameters` are as they were at `load`, so on a GPU this pass may run beside those before it.
        sent: [W] bool, these workers' gradients alone are wanted; the others do no training pass: their loss and batch
        statistics stay what they were. On the CPU nothing is computed for them. Without `rows`, `early`, `load_next`.
        The result of a training pass is valid until the next mini-batch is loaded, others until the next call.
        """
        with torch.autocast(parameters.device.type, torch.bfloat16, enabled=self.bfloat16):
            if not (early and parameters.is_cuda):
                return self._pass(parameters, per_worker, rows, sent)
            if self._stream is None:
                self._stream = torch.cuda.Stream()
            self._stream.wait_event(self._loaded)
            with torch.cuda.stream(self._stream):
                gradients = self._pass(parameters, per_worker, rows, sent)
            torch.cuda.current_stream().wait_stream(self._stream)
            return gradients

    def _pass(self, parameters: Tensor, per_worker: bool, rows: Tensor | None, sent: Tensor | None) -> Gradients:
        if sent is not None and not sent.is_cuda:
            gradients = self._pass_of_some(parameters, sent.nonzero().flatten())
        else:
            gradients = self._pass_of_all(parameters, per_worker, rows, sent)
        if self._is_training_pass:
            self._is_training_pass = False
            self.running.update(self.statistics)
        return gradients

    def _pass_of_all(self, parameters: Tensor, per_worker: bool, rows: Tensor | None, sent: Tensor | None) -> Gradients:
        statistics = self.statistics if self._is_training_pass and sent is None else self._ignored
        if self._can_factor and per_worker:
            loss, gradients = self.engine.factored(parameters, self._x, self._y, rows)
        else:
            loss, gradients = self._dense_pass(parameters, per_worker, rows, statistics)
        if self._is_training_pass:
            self._num_training_passes += 1
            if sent is not None:
                copy_rows_(self.loss, loss, sent)
                copy_rows_(self.statistics, statistics, sent)
            elif self._num_training_passes == 1:
                self.loss.copy_(loss)
            else:
                self.loss.add_((loss - self.loss) / self._num_training_passes)
        return gradients

    def _pass_of_some(self, parameters: Tensor, chosen: Tensor) -> Gradients:
        """A pass of the held workers `chosen` [n] alone, on the CPU; the other rows of the result hold anything."""
        out = self._buffer("training" if self._is_training_pass else "other", len(self.loss))
        if len(chosen) == 0:
            return DenseGradients(out)
        x, y, statistics = self._x[chosen], self._y[chosen], self._ignored[: len(chosen)]
        if self._can_factor:
            loss, factored = self.engine.factored(parameters, x, y, None if parameters.dim() == 1 else chosen)
            gradients = factored.among(len(self.loss), chosen)
        else:
            own = parameters if parameters.dim() == 1 else parameters[chosen]
            rows = self._buffer("some", len(self.loss))[: len(chosen)]
            loss = self.engine.per_worker(own, x, y, rows, statistics)
            self._add_penalties(rows, own, 1)
            gradients = DenseGradients(out.index_copy_(0, chosen, rows))
        if self._is_training_pass:
            self.loss.index_copy_(0, chosen, loss)
            self.statistics.index_copy_(0, chosen, statistics)
        return gradients

    @property
    def _can_factor(self) -> bool:
        return not (self.weight_decay or self.penalty_gradient) and self.engine.can_factor(self._x)

    def _dense_pass(
        self, parameters: Tensor, per_worker: bool, rows: Tensor | None, statistics: Tensor
    ) -> tuple[Tensor, Gradients]:
        num_rows = len(self.loss) if per_worker else 1
        if rows is not None:
            parameters = torch.index_select(parameters, 0, rows, out=self._buffer("parameters", len(rows)))
        out = self._buffer("training" if self._is_training_pass else "other", num_rows)
        if per_worker:
            loss = self.engine.per_worker(parameters, self._x, self._y, out, statistics)
        else:
            loss = self.engine.total(parameters, self._x, self._y, out[0], statistics)
        self._add_penalties(out, parameters, len(self.loss) // num_rows)
        return loss, DenseGradients(out)

    def _add_penalties(self, gradients: Tensor, parameters: Tensor, num_workers: int) -> None:
        """To each row of `gradients`, which is that of `num_workers` workers, at `parameters` [d] or by row."""
        if self.weight_decay:
            add_rows_(gradients, parameters, self.weight_decay * num_workers)
        if self.penalty_gradient:
            add_rows_(gradients, self.penalty_gradient(parameters), num_workers)

    def _buffer(self, purpose: str, num_rows: int) -> Tensor:
        if (purpose, num_rows) not in self._buffers:
            self._buffers[purpose, num_rows] = self.loss.new_empty(num_rows, self.engine.layout.size)
        return self._buffers[purpose, num_rows]
