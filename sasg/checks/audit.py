"""A second count of what goes over the wire, kept by each process beside the ledger and the transport."""

from typing import Any

import torch
from torch import Tensor

from sasg.cluster import Cluster, Ledger, Payload, Reply, Server, Update
from sasg.cluster.cluster import UPDATE
from sasg.cluster.transport import KINDS

HEADER_BYTES = {"plain": 4, "packed": 8}  # in front of an update that may be sparse
CODE = {"plain": "int32", "packed": "packed"}  # of positions on the wire


class Audit:
    """Stands between a method and its cluster: counts the uploads of the workers held here, and what they are told.

    uploaded: [W] bool of the iteration, who was in any exchange.
    """

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.own = Ledger(len(cluster.workers), cluster.device, cluster.ledger.codes, ("side_bits", "vote_bits"))
        self.padding_bits = 0  # that fill the last byte of coded values
        self.flag_bytes = self.asked_bytes = self.reply_bytes = self.request_bytes = 0
        self._flag_bytes = (len(cluster.workers) + 7) // 8
        self.start_iteration()
        wire = getattr(cluster, "wire", "plain")
        self._header_bytes, self._code = HEADER_BYTES[wire], CODE[wire]
        self._exchange, self._request = cluster.exchange, cluster.request
        cluster.exchange, cluster.request = self.exchange, self.request

    def start_iteration(self) -> None:
        self.uploaded = torch.zeros(len(self.cluster.workers), dtype=torch.bool)

    def exchange(self, payload: Payload, sent: Tensor | None, server: Server, reply: Reply = UPDATE) -> Tensor | None:
        self.own.count_uploads(payload, sent)
        self.uploaded |= True if sent is None else sent.cpu()
        self.padding_bits += _padding_bits(payload, sent)
        self.flag_bytes += 0 if sent is None else self._flag_bytes
        before = self._broadcast_bits()
        returned = self._exchange(payload, sent, server, reply)
        has_header = isinstance(reply, Update) and payload.indices is not None
        self.reply_bytes += -((before - self._broadcast_bits()) // 8) + self._header_bytes * has_header  # whole bytes
        return returned

    def request(self, asked: Tensor | None, parameters: Tensor) -> Tensor:
        mine = self._request(asked, parameters)
        self.asked_bytes += self._flag_bytes
        self.request_bytes += int(mine.any()) * parameters.numel() * parameters.element_size()
        return mine

    def totals(self) -> dict[str, Any]:
        """What this process counted, and what its transport did."""
        transport = getattr(self.cluster, "transport", None)
        moved = {way: dict(getattr(transport, way)) for way in ("sent", "received")} if transport else None
        own = self.own.totals()
        kinds = ("value_bits", "side_bits", f"index_bits_{self._code}", f"vote_bits_{self._code}")
        uploaded = {"uploaded_bits": sum(own[name] for name in kinds) + self.padding_bits}
        counted = ("flag_bytes", "asked_bytes", "reply_bytes", "request_bytes")
        return {"own": own, "moved": moved, **uploaded, **{name: getattr(self, name) for name in counted}}

    def _broadcast_bits(self) -> int:
        return self.cluster.ledger.totals()[f"downlink_broadcast_bits_{self._code}"]


def _padding_bits(payload: Payload, sent: Tensor | None) -> int:
    if payload.code is None:
        return 0
    widths = [payload.values.shape[1]] * len(payload.values) if payload.count is None else payload.count.tolist()
    senders = [True] * len(widths) if sent is None else sent.tolist()
    return sum(-payload.code.bits * k % 8 for k, flag in zip(widths, senders, strict=True) if flag)


def differences(ranks: list[dict[str, Any]], row: dict[str, Any]) -> list[str]:
    """Where what the processes sent and received is not what the server's ledger, in `row`, counts; in words."""
    server, others = ranks[0], ranks[1:]
    wrong = []

    def compare(what: str, found: int, expected: int) -> None:
        if found != expected:
            wrong.append(f"{what}: {found:,} instead of {expected:,}")

    for name, amount in server["own"].items():
        if name in row and not name.startswith(("downlink", "flag")):
            compare(f"{name} of all processes", sum(rank["own"][name] for rank in ranks), row[name])
        elif amount and name not in row:
            wrong.append(f"{name}: {amount:,}, which the metrics leave out")
    for number, rank in enumerate(others, 1):
        compare(f"bits that rank {number} uploaded", 8 * rank["moved"]["sent"]["payloads"], rank["uploaded_bits"])
        compare(f"bytes of flags of rank {number}", rank["moved"]["sent"]["flags"], rank["flag_bytes"])
        compare(f"bytes of flags to rank {number}", rank["moved"]["received"]["flags"], rank["asked_bytes"])
        told = server["reply_bytes"] + rank["request_bytes"]
        compare(f"bytes that rank {number} downloaded", rank["moved"]["received"]["updates"], told)
    for kind in KINDS:
        if kind != "updates":
            sent = sum(rank["moved"]["sent"][kind] for rank in others)
            compare(f"bytes of {kind} that the server received", server["moved"]["received"][kind], sent)
    told = server["reply_bytes"] + sum(rank["request_bytes"] for rank in others)
    compare("bytes that the server sent", server["moved"]["sent"]["updates"], told)
    return wrong
