"""An iteration as captured CUDA graphs, with what they cannot hold between them."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from sasg.cluster import Cluster

WARM_UP = 3

Part = Callable[[], None]


class Recorder(Protocol):
    """Records work on tensors, to be done again on the same memory."""

    def at_work(self) -> contextlib.AbstractContextManager[None]:
        """Around all that is recorded, and what is done in between and before."""

    def recording(self) -> contextlib.AbstractContextManager[None]:
        """Around all that is recorded, within `at_work`."""

    def begin(self) -> None:
        """What follows is recorded, and not done yet."""

    def end(self) -> Part:
        """Recorded until here: the result does it."""


class Captured:
    """A function without arguments, run as it is for a few calls, then captured once and replayed.

    The function must do the same work on the same tensors in every call, never wait for the device, and make its
    decisions on the device. Tensors that live on between calls must exist after the first ones. What its cluster does
    `outside` is no part of a graph: there one graph ends, the work is done, as in every call from then on, and the
    next graph begins, for which its result lies in memory that stays.
    """

    def __init__(
        self,
        function: Callable[[], None],
        cluster: Cluster,
        resumed: Callable[[], None] = lambda: None,
        recorder: Recorder | None = None,
    ):
        """resumed: called where a graph begins after work outside; recorder: `CudaGraphs` unless given."""
        self._function = function
        self._cluster = cluster
        self._resumed = resumed
        self._recorder = recorder or CudaGraphs()
        self._calls = 0
        self._parts: list[Part] = []
        self._is_captured = False

    def __call__(self) -> None:
        if self._is_captured:
            for part in self._parts:
                part()
            return
        with self._recorder.at_work():
            if self._calls < WARM_UP:
                self._calls += 1
                self._function()
                return
            self._capture()

    def _capture(self) -> None:
        """The call that records: it does all the work, too, each part when it is recorded."""
        before, self._cluster.outside = self._cluster.outside, self._outside
        try:
            with self._recorder.recording():
                self._recorder.begin()
                self._function()
                self._end()
        finally:
            self._cluster.outside = before
        self._is_captured = True

    def _end(self) -> None:
        replay = self._recorder.end()
        stopwatch = self._cluster.stopwatch
        marks = stopwatch.captured()

        def part() -> None:
            stopwatch.replay(replay, marks)

        self._parts.append(part)
        part()

    def _outside(self, work: Callable[[], Tensor | None]) -> Tensor | None:
        self._end()
        result = work()
        kept = None if result is None else result.clone()

        def part() -> None:
            result = work()
            if kept is not None:
                kept.copy_(result)

        self._parts.append(part)
        self._recorder.begin()
        self._resumed()
        return kept


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
            if was_enabled:
                gc.enable()

    def begin(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # other threads (NCCL's watchdog, gloo's) may call CUDA meanwhile
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> Part:
        graph, self._graph = self._graph, None
        graph.capture_end()
        return graph.replay
