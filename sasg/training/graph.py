"""An iteration as a captured CUDA graph."""

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch

WARM_UP = 3


class Captured:
    """A function without arguments, run as it is for a few calls, then captured once and replayed.

    The function must do the same work on the same tensors in every call, never wait for the device, and make its
    decisions on the device. Tensors that live on between calls must exist after the first ones.
    """

    def __init__(self, function: Callable[[], None]):
        torch.cuda.synchronize()  # the graph that this one replaces, if any, may still be at work
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()

    def __call__(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        if self._calls < WARM_UP:
            self._calls += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._function()
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        self._graph = torch.cuda.CUDAGraph()
        with _nothing_collected(), torch.cuda.graph(self._graph, stream=self._stream):
            self._function()
        self._graph.replay()


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """Without Python's collector of cycles: to free an older graph or its memory ends a capture with an error."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
