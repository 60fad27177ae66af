"""All workers in one process."""

from collections.abc import Callable

import torch
from torch import Tensor

from sasg.cluster.accounting.ledger import Ledger
from sasg.cluster.cluster import UPDATE, Cluster, Server, Uploads
from sasg.cluster.payload import Payload, check_uploads
from sasg.cluster.reply import Reply
from sasg.cluster.stopwatch import NoStopwatch


class SimulatedCluster(Cluster):
    """M workers and the server in this process; nothing is sent, everything is counted."""

    is_server = True

    def __init__(self, num_workers: int, device: torch.device):
        self.num_workers = num_workers
        self.workers = range(num_workers)
        self.device = device
        self.ledger = Ledger(num_workers, device)
        self.stopwatch = NoStopwatch()

    def exchange(self, payload: Payload, sent: Tensor | None, server: Server, reply: Reply = UPDATE) -> Tensor | None:
        check_uploads(payload, self.num_workers, sent)
        returned = server([Uploads(slice(0, self.num_workers), payload, sent)])
        self.ledger.count_uploads(payload, sent)
        self.ledger.count_reply(reply, returned, payload)
        return returned.dense()[0] if isinstance(returned, Payload) else returned

    def sum(self, rows: Callable[[], Tensor], total: Callable[[], Tensor]) -> Tensor:
        update = total()
        payload = Payload(update.expand(self.num_workers, -1))  # as many, for the ledger
        self.ledger.count_uploads(payload, None)
        self.ledger.count_reply(UPDATE, update, payload)
        return update

    def request(self, asked: Tensor | None, parameters: Tensor) -> Tensor:
        self.ledger.count_request(asked, parameters)
        return asked

    def add_shares(self, share: Tensor) -> Tensor:
        return share

    def gather(self, held: Tensor) -> Tensor:
        return held

    def scatter(self, rows: Tensor | None, held: Tensor) -> None:
        held.copy_(rows)

    def spread(self, tensor: Tensor) -> None:
        pass

    def largest(self, wish: int) -> int:
        return wish
