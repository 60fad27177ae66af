"""The interface between a method and the place where its workers live."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from sasg.cluster.accounting.ledger import Ledger
from sasg.cluster.payload import Payload
from sasg.cluster.reply import Reply, Update
from sasg.cluster.stopwatch import NoStopwatch
from sasg.kernels.rows import sum_in_order

T = TypeVar("T")
UPDATE = Update()


@dataclass(frozen=True)
class Uploads:
    """Payloads that reach the server together: those of the contiguous `workers`, n of all M.

    payload: [n, k]; sent: [n] bool, whose payload is new, or None for everyone's. The payload's memory is the
    server's only until it asks for the next uploads.
    """

    workers: slice
    payload: Payload
    sent: Tensor | None


Server = Callable[[Iterable[Uploads]], Tensor | Payload | None]
"""Uploads in worker order -> the update [d], or what else the exchange's `Reply` says; runs at the server alone.

All M workers come at once, or in parts as they arrive; workers of another process that do not send are left out.
"""


def sum_of_values(arriving: Iterable[Uploads]) -> Tensor:
    """Of uploads whose values all have the same places, [k] or [d], in worker order."""
    total = None
    for uploads in arriving:
        total = sum_in_order(uploads.payload.values, total)
    return total


Outside = Callable[[Callable[[], Tensor | None]], Tensor | None]
"""Does some work, and returns its result."""


def at_once(work: Callable[[], Tensor | None]) -> Tensor | None:
    """What the work returns, where nothing is captured."""
    return work()


class Cluster(ABC):
    """M workers, of which this process holds `workers`, and one server."""

    num_workers: int
    workers: range
    is_server: bool
    device: torch.device
    ledger: Ledger  # counts at the server; a run puts its own here
    stopwatch: NoStopwatch
    share_of_work: tuple[int, int] = (0, 1)
    """(i, n): this process does part i of n of work that any process can do."""
    outside: Outside = staticmethod(at_once)
    """Does work that a CUDA graph cannot hold, and returns its result; a run that is captured puts its own here."""

    @abstractmethod
    def exchange(self, payload: Payload, sent: Tensor | None, server: Server, reply: Reply = UPDATE) -> Tensor | None:
        """Upload, let the server work, download: what the server returned, in every process (a payload as [d]).

        payload: of the workers held here, [W, k]; sent: [W] bool, or None where every worker always sends.
        reply: what the server returns; by default the update [d].
        The ledger counts here, from what is exchanged. The reply's memory is reused by the next exchange.
        """

    def sum(self, rows: Callable[[], Tensor], total: Callable[[], Tensor]) -> Tensor:
        """The sum over all M workers of dense vectors [d], which each of them uploads, in every process.

        rows(): those of the workers held here, [W, d]; total(): their sum, for a cluster that needs no more.
        """
        return self.exchange(Payload(rows()), None, sum_of_values)

    @abstractmethod
    def request(self, asked: Tensor | None, parameters: Tensor) -> Tensor:
        """The server asks some workers for uploads and sends them its parameters: who of those held here is asked, [W].

        asked: [M] bool, at the server; elsewhere None. parameters: [d], at the server those to send, elsewhere
        overwritten in place if any worker held here is asked. The ledger counts them for every worker that is asked,
        and a bit for each worker, asked or not.
        """

    @abstractmethod
    def add_shares(self, share: Tensor) -> Tensor:
        """The sum over processes of a tensor that each holds a share of."""

    @abstractmethod
    def gather(self, held: Tensor) -> Tensor:
        """[W, ...] of the workers held here -> [M, ...] of all, in worker order, at the server; elsewhere `held`."""

    @abstractmethod
    def scatter(self, rows: Tensor | None, held: Tensor) -> None:
        """The inverse of `gather`: overwrites `held` [W, ...] from `rows` [M, ...] of the server (elsewhere None)."""

    @abstractmethod
    def spread(self, tensor: Tensor) -> None:
        """Overwrite `tensor` in every process by the server's."""

    @abstractmethod
    def largest(self, wish: int) -> int:
        """The largest of the processes' non-negative `wish`es, known to all: how they decide together."""

    def settle(self) -> None:
        """Wait for messages that are underway: before the host waits for the device, for which it could for ever."""
        return

    def check_equal(self, facts: Mapping[str, str]) -> None:
        """UserError, in every process, if processes differ in any of these facts."""
        return

    def describe(self) -> dict[str, Any]:
        """What a summary says about where the run took place."""
        return {"kind": "simulated"}

    def in_turn(self, load: Callable[[], T]) -> T:
        """load() of every process; the first one of a machine before the others, which find what it downloaded."""
        return load()
