"""An iteration as captured CUDA graphs, with what they cannot hold between them."""

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sasg.cluster import Cluster
from sasg.cluster.cluster import Outside, at_once
from sasg.gradients.admission import reason

WARM_UP = 3

Part = Callable[[], None]


class Recorder(Protocol):
    """Records work on tensors, to be done again on the same memory."""

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Around all that is recorded, and what is done before."""

    def recording(self) -> contextlib.AbstractContextManager[None]:
        """Around all that is recorded, within `at_work`; an error that leaves it ends the recording."""

    def begin(self) -> None:
        """What follows is recorded, and not done."""

    def end(self) -> Part:
        """Recorded until here: the result does it."""


class Captured:
    """A function without arguments, run as it is for a few calls, then captured once and replayed.

    The function must do the same work on the same tensors in every call, never wait for the device, and make its
    decisions on the device. Tensors that live on between calls must exist after the first ones. What its cluster does
    `outside` is no part of a graph: there one graph ends, and the next one begins; its result is copied to memory
    that stays. A function that cannot be captured is run as it is in every call, on whatever cluster: nothing is done
    before all of it is captured, and processes need not agree.
    """

    def __init__(
        self,
        function: Callable[[], None],
        cluster: Cluster,
        resumed: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = warnings.warn,
        recorder: Recorder | None = None,
    ):
        """resumed: called where a graph begins after work outside; tell: gets the reason why nothing is captured.

        recorder: `CudaGraphs` unless given.
        """
        self._function = function
        self._cluster = cluster
        self._resumed = resumed
        self._tell = tell
        cluster.settle()
        self._recorder = recorder or CudaGraphs()  # which waits for the device, as a recording does
        self._calls = 0
        self._results: list[Tensor | None] = []  # of the work outside, in the order of an iteration
        self._parts: list[Part] | None = None

    def __call__(self) -> None:
        if self._parts is None and self._calls == WARM_UP:
            self._cluster.settle()
            with self._recorder.at_work():
                self._parts = self._captured()
        if self._parts is not None:
            for part in self._parts:
                part()
            return
        self._calls += 1
        with self._recorder.at_work(), self._outside(self._remember if self._calls == WARM_UP else at_once):
            self._function()

    @contextlib.contextmanager
    def _outside(self, instead: Outside) -> Iterator[None]:
        before, self._cluster.outside = self._cluster.outside, instead
        try:
            yield
        finally:
            self._cluster.outside = before

    def _remember(self, work: Callable[[], Tensor | None]) -> Tensor | None:
        result = work()
        self._results.append(None if result is None else result.clone())
        return self._results[-1]

    def _captured(self) -> list[Part]:
        """The parts of an iteration; if it cannot be captured, there is one: the function itself."""
        parts: list[Part] = []
        stopwatch, recorder = self._cluster.stopwatch, self._recorder
        results = iter(self._results)

        def end() -> None:
            parts.append(partial(stopwatch.replay, recorder.end(), stopwatch.captured()))

        def outside(work: Callable[[], Tensor | None]) -> Tensor | None:
            end()
            kept = next(results)
            parts.append(partial(_do_outside, work, kept))
            recorder.begin()
            self._resumed()
            return kept

        try:
            with recorder.recording(), self._outside(outside):
                recorder.begin()
                self._function()
                end()
        except Exception as error:
            stopwatch.captured()  # of a part that there is not
            self._tell(f"iterations are not captured as CUDA graphs, which is slower ({reason(error)})")
            return [self._function]
        return parts


def _do_outside(work: Callable[[], Tensor | None], kept: Tensor | None) -> None:
    result = work()
    if kept is not None:
        assert result is not None
        kept.copy_(result)


class CudaGraphs:
    """Records CUDA graphs, which share their memory: they are replayed in the order in which they were captured."""

    def __init__(self) -> None:
        torch.cuda.synchronize()  # graphs that these replace, if any, may still be at work
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()
        self._graph: torch.cuda.CUDAGraph | None = None  # that is being captured

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.current_stream().wait_stream(self._stream)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Without Python's collector of cycles: to free an older graph or its memory ends a capture with an error."""
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if self._graph is not None:  # an error came between: its own words matter, not that the capture has failed
                with contextlib.suppress(RuntimeError):
                    self._graph.capture_end()
                with contextlib.suppress(RuntimeError):  # which the failed end has left undone
                    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
                torch.cuda.synchronize()
                self._graph = None
            if was_enabled:
                gc.enable()

    def begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # other threads (NCCL's watchdog, gloo's) may call CUDA meanwhile
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> Part:
        graph = self._graph
        assert graph is not None
        graph.capture_end()  # an error leaves the graph, to be ended by `recording`
        self._graph = None
        return graph.replay
