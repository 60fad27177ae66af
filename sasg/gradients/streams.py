"""The reference engine with workers side by side on CUDA streams: any model, no Triton."""

import torch
from torch import Tensor

from sasg.gradients.loop import LoopEngine

MOST_STREAMS = 10


class StreamsEngine(LoopEngine):
    """`loop`, with each worker's passes on one of several streams that run concurrently."""

    def per_worker(self, parameters: Tensor, x: Tensor, y: Tensor, out: Tensor, statistics: Tensor) -> Tensor:
        streams = _streams(min(MOST_STREAMS, len(x)))
        losses = out.new_empty(len(x))  # of this stream: others' memory may be reused before this one reads it
        current = torch.cuda.current_stream()
        for stream in streams:
            stream.wait_stream(current)
        for worker in range(len(x)):
            one = slice(worker, worker + 1)
            own = parameters if parameters.dim() == 1 else parameters[one]
            with torch.cuda.stream(streams[worker % len(streams)]):
                losses[one] = super().per_worker(own, x[one], y[one], out[one], statistics[one])
        for stream in streams:
            current.wait_stream(stream)
        return losses


_pool: list[torch.cuda.Stream] = []


def _streams(number: int) -> list[torch.cuda.Stream]:
    """The same streams for every pass."""
    while len(_pool) < number:
        _pool.append(torch.cuda.Stream())
    return _pool[:number]
