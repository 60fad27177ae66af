"""Messages between the processes of a distributed run: bytes, counted, with names for what goes wrong."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from sasg.errors import ClusterError

SERVER = 0
START_SECONDS = 300.0
KINDS = ("flags", "payloads", "updates", "apart")
"""What bytes are counted as; `apart`: evaluation, checkpoints and decisions to stop."""


class Transport:
    """Sends, receives and broadcasts whole contiguous tensors between ranks.

    Every call blocks until it is done, but for a broadcast of updates through NCCL: what is queued behind it on the
    device waits for it, and the host does in its next call here (or in `settle`), so that it can queue meanwhile.

    device: where tensors lie that NCCL sends (its GPU); tensors on the CPU always go through gloo.
    timeout_s: for how long the server waits for a rank once `hurry` was called; START_SECONDS before. The others
    wait twice as long for the server, so that it is the server that names a silent rank.
    ClusterError if a rank is silent for longer, or has ended.
    """

    def __init__(self, workers: list[range], device: torch.device, timeout_s: float):
        """workers: of each rank."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.workers = workers
        self.device = device
        self.sent, self.received = Counter(dict.fromkeys(KINDS, 0)), Counter(dict.fromkeys(KINDS, 0))  # bytes by kind
        self._unsettled: list[tuple[dist.Work, Tensor, list[int]]] = []
        self._final_timeout_s = timeout_s
        self._timeout_s = self._patience * max(timeout_s, START_SECONDS)

    @property
    def is_server(self) -> bool:
        return self.rank == SERVER

    def hurry(self) -> None:
        """From now on all ranks are at work."""
        self._timeout_s = self._patience * self._final_timeout_s

    @property
    def _patience(self) -> int:
        return 1 if self.is_server else 2

    @property
    def others(self) -> range:
        """The ranks that are not the server."""
        return range(1, self.size)

    def name(self, rank: int) -> str:
        """A rank by its number and its workers."""
        return rank_name(rank, self.workers[rank])

    def send(self, tensor: Tensor, rank: int, kind: str) -> None:
        """Send to one rank; returns when `tensor` may be overwritten."""
        self.post(tensor, rank, kind)()

    def post(self, tensor: Tensor, rank: int, kind: str) -> Callable[[], None]:
        """Begin to send; the result waits until `tensor` may be overwritten."""
        self.settle()
        data = _bytes(tensor)
        with self._waiting_for(rank):
            work = dist.isend(data, rank)

        def wait() -> None:
            with self._waiting_for(rank):
                self._finish(work, data)
            self.sent[kind] += data.numel()

        return wait

    def receive(self, tensor: Tensor, rank: int, kind: str) -> None:
        """Overwrite `tensor` by what one rank sends."""
        self.expect(tensor, rank, kind)()

    def expect(self, tensor: Tensor, rank: int, kind: str, num_bytes: int | None = None) -> Callable[[], None]:
        """Begin to receive; the result waits until it is done. gloo takes messages of fewer than all bytes, too.

        num_bytes: to count, where `tensor` has room for more than what is expected.
        """
        self.settle()
        data = _bytes(tensor)
        with self._waiting_for(rank):
            work = dist.irecv(data, rank)

        def wait() -> None:
            with self._waiting_for(rank):
                self._finish(work, data)
            self.received[kind] += data.numel() if num_bytes is None else num_bytes

        return wait

    def broadcast(self, tensor: Tensor, kind: str) -> None:
        """Overwrite `tensor` in every rank by the server's; counted once at the server, whoever relays it."""
        self.settle()
        data, ranks = _bytes(tensor), list(self.others) if self.is_server else [SERVER]
        with self._waiting_for(*ranks):
            work = dist.broadcast(data, SERVER, async_op=True)
            if data.device.type == "cuda" and kind != "apart":  # there the host reads what has come
                work.synchronize()  # the device's stream waits, not the host
                self._unsettled.append((work, data, ranks))
            else:
                self._finish(work, data)
        (self.sent if self.is_server else self.received)[kind] += data.numel()

    def settle(self) -> None:
        """Wait for what was begun; see `Cluster.settle`."""
        unsettled, self._unsettled = self._unsettled, []
        for work, data, ranks in unsettled:
            with self._waiting_for(*ranks):
                self._finish(work, data)

    def _finish(self, work: dist.Work, data: Tensor) -> None:
        """Wait until it is done. NCCL's own waiting with a time-out sleeps for a millisecond at a time."""
        deadline = time.monotonic() + self._timeout_s
        while data.device.type == "cuda" and not work.is_completed():
            if time.monotonic() > deadline:
                raise RuntimeError("timed out")
        work.wait(timedelta(seconds=self._timeout_s))

    @contextlib.contextmanager
    def _waiting_for(self, *ranks: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo's and NCCL's messages are all that tells these apart
            text = str(error)
            names = self.name(ranks[0]) if len(ranks) == 1 else f"one of the ranks {ranks[0]} to {ranks[-1]}"
            if "imed out" in text or "imeout" in text:
                raise ClusterError(f"{names} was silent for {self._timeout_s:g} s (cluster.timeout_s)") from None
            raise ClusterError(f"{names} ended, or its connection was lost") from None


def rank_name(rank: int, workers: range) -> str:
    """A rank by its number and its workers, for people."""
    which = f"worker {workers[0]}" if len(workers) == 1 else f"workers {workers[0]}-{workers[-1]}"
    return f"rank {rank} ({'server, ' if rank == SERVER else ''}{which})"


def _bytes(tensor: Tensor) -> Tensor:
    assert tensor.is_contiguous()
    return tensor.view(-1).view(torch.uint8)
