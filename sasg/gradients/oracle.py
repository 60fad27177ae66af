"""Gradients on the current mini-batch, as methods ask for them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from sasg.cluster.stopwatch import NoStopwatch
from sasg.gradients import Gradients
from sasg.gradients.engines import DenseGradients, Engine
from sasg.gradients.normalisation import RunningStatistics
from sasg.kernels.rows import add_rows_, copy_rows_


class Batches(Protocol):
    """The mini-batches of an epoch, of the workers held here."""

    workers: range

    def batch(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """x [W, B, ...] and y [W, B] or [W, B, T] of the epoch's mini-batch at `position`, a scalar."""


class Oracle:
    """`sasg.gradients.Oracle` for the W workers held by this process; it goes through the epoch's mini-batches.

    `loss` [W] is the mean over an iteration's training passes, and BatchNorm's running statistics take in theirs.
    `weight_decay` adds weight_decay * parameters to every gradient, `penalty_gradient` what it gives for them.
    """

    def __init__(
        self,
        engine: Engine,
        batches: Batches,
        running: RunningStatistics,
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
        self.stopwatch = NoStopwatch()  # a run puts its cluster's here
        num_held = len(batches.workers)
        self.loss = like.new_zeros(num_held)
        #: [W, s], of each worker's last training pass; those of other passes are ignored
        self.statistics, self._ignored = like.new_zeros(2, num_held, engine.statistics.size)
        self._batches = batches
        self._position = torch.zeros((), dtype=torch.int64, device=like.device)  # of the epoch's next mini-batch
        self._buffers: dict[tuple[str, int], Tensor] = {}  # (purpose, rows) -> [rows, d], allocated when needed
        self._stream: torch.cuda.Stream | None = None

    def go_to(self, position: int) -> None:
        """The next mini-batch is the epoch's one at `position` (from 0)."""
        self._position.fill_(position)

    def begin(self) -> None:
        """Start an iteration on the next mini-batch."""
        self.num_batches = 0
        self.advance()

    def advance(self) -> None:
        self.stopwatch.enter("other")
        self._x, self._y = self._batches.batch(self._position)
        self._position.add_(1)
        self.num_batches += 1
        self._is_trained = False
        self.resumed()

    def resumed(self) -> None:
        """What was done until here is done before all that follows, on any stream."""
        if self._x.is_cuda:
            self._loaded = torch.cuda.current_stream().record_event()

    def __call__(self, parameters: Tensor) -> Gradients:
        with self._pass():
            return self._of_all(parameters)

    def at(self, past: Tensor, rows: Tensor) -> Gradients:
        assert self._is_trained
        with self._pass():
            if not past.is_cuda:
                return self._of_all(past, rows)
            if self._stream is None:
                self._stream = torch.cuda.Stream()
            self._stream.wait_event(self._loaded)
            with torch.cuda.stream(self._stream):
                gradients = self._of_all(past, rows)
            torch.cuda.current_stream().wait_stream(self._stream)
            return gradients

    def of(self, parameters: Tensor, asked: Tensor) -> Gradients:
        with self._pass():
            if asked.is_cuda:
                return self._of_all(parameters, asked=asked)
            return self._of_some(parameters, asked.nonzero().flatten())

    def total(self, parameters: Tensor) -> Tensor:
        assert not self._is_trained
        with self._pass():
            sums = self._buffer("training", 1)
            loss = self.engine.total(parameters, self._x, self._y, sums[0], self.statistics)
            self._add_penalties(sums, parameters, len(self.loss))
            self._note(loss)
            return sums[0]

    @contextlib.contextmanager
    def _pass(self) -> Iterator[None]:
        """What follows a pass is the selection of what to upload."""
        self.stopwatch.enter("comparison" if self._is_trained else "gradient")
        with torch.autocast(self.loss.device.type, torch.bfloat16, enabled=self.bfloat16):
            yield
        self.stopwatch.enter("selection")

    def _of_all(self, parameters: Tensor, rows: Tensor | None = None, asked: Tensor | None = None) -> Gradients:
        """rows: as of `at`; asked: on a GPU, whose loss and statistics are noted."""
        statistics = self._ignored if self._is_trained or asked is not None else self.statistics
        if self._can_factor:
            loss, gradients = self.engine.factored(parameters, self._x, self._y, rows)
        else:
            if rows is not None:
                parameters = torch.index_select(parameters, 0, rows, out=self._buffer("parameters", len(rows)))
            out = self._gradient_buffer()
            loss = self.engine.per_worker(parameters, self._x, self._y, out, statistics)
            self._add_penalties(out, parameters, 1)
            gradients = DenseGradients(out)
        if not self._is_trained:
            if asked is not None:
                copy_rows_(self.statistics, statistics, asked)
                loss = torch.where(asked, loss, self.loss)
            self._note(loss)
        return gradients

    def _of_some(self, parameters: Tensor, chosen: Tensor) -> Gradients:
        """Of the held workers `chosen` [n] alone, on the CPU; the other rows of the result hold anything."""
        out, statistics = self._gradient_buffer(), self._ignored[: len(chosen)]
        gradients: Gradients = DenseGradients(out)
        loss = self.loss.clone()
        if len(chosen):
            x, y = self._x[chosen], self._y[chosen]
            if self._can_factor:
                own_rows = None if parameters.dim() == 1 else chosen
                loss_of_chosen, factored = self.engine.factored(parameters, x, y, own_rows)
                gradients = factored.among(len(self.loss), chosen)
            else:
                own = parameters if parameters.dim() == 1 else parameters[chosen]
                rows = self._buffer("some", len(self.loss))[: len(chosen)]
                loss_of_chosen = self.engine.per_worker(own, x, y, rows, statistics)
                self._add_penalties(rows, own, 1)
                out.index_copy_(0, chosen, rows)
            loss.index_copy_(0, chosen, loss_of_chosen)
        if not self._is_trained:
            self.statistics.index_copy_(0, chosen, statistics)
            self._note(loss)
        return gradients

    def _note(self, loss: Tensor) -> None:
        """Take in the loss [W] and `statistics` of the training pass that is done."""
        if self.num_batches == 1:
            self.loss.copy_(loss)
        else:
            self.loss.add_((loss - self.loss) / self.num_batches)
        self.running.update(self.statistics)
        self._is_trained = True

    @property
    def _can_factor(self) -> bool:
        return not (self.weight_decay or self.penalty_gradient) and self.engine.can_factor(self._x)

    def _add_penalties(self, gradients: Tensor, parameters: Tensor, num_workers: int) -> None:
        """To each row of `gradients`, which is that of `num_workers` workers, at `parameters` [d] or by row."""
        if self.weight_decay:
            add_rows_(gradients, parameters, self.weight_decay * num_workers)
        if self.penalty_gradient:
            add_rows_(gradients, self.penalty_gradient(parameters), num_workers)

    def _gradient_buffer(self) -> Tensor:
        """[W, d]; that of the training pass stays as it is until the next mini-batch."""
        return self._buffer("other" if self._is_trained else "training", len(self.loss))

    def _buffer(self, purpose: str, num_rows: int) -> Tensor:
        if (purpose, num_rows) not in self._buffers:
            self._buffers[purpose, num_rows] = self.loss.new_empty(num_rows, self.engine.layout.size)
        return self._buffers[purpose, num_rows]
