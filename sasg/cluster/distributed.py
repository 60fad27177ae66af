"""Workers spread over processes that send each other messages."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from sasg.cluster.accounting.ledger import Ledger
from sasg.cluster.cluster import UPDATE, Cluster, Server, Uploads
from sasg.cluster.payload import Payload, check_uploads
from sasg.cluster.reply import Coded, Compressed, Positions, Reply, Update, Values
from sasg.cluster.stopwatch import DeviceStopwatch, Stopwatch
from sasg.cluster.transport import SERVER, Transport
from sasg.cluster.wire import Wire, WireFormat
from sasg.errors import UserError

T = TypeVar("T")
TOGETHER_BYTES = {"cuda": 2**30, "cpu": 2**22}
"""Up to how many bytes uploads are taken together, by the wire's device; more leave a CPU's cache before their use."""
UNDERWAY = 2  # uploads of a process: one is packed while another one is sent
ALIGNMENT = 16  # bytes: where the payloads of a buffer begin, so that numbers lie well
DENSE = -1  # in the header of an update: no support follows


def spread_workers(num_workers: int, num_processes: int) -> list[range]:
    """The contiguous workers of each rank, as evenly as possible."""
    bounds = [num_workers * rank // num_processes for rank in range(num_processes + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]


class DistributedCluster(Cluster):
    """This process's share of M workers; rank 0 is the server and holds workers too.

    Only workers that send cost more than a flag. The server takes uploads in worker order, one at a time ("serial"
    reception: one payload of memory), or all of one length together ("parallel": M payloads of memory); "auto":
    together while they take up to TOGETHER_BYTES.
    """

    def __init__(
        self,
        num_workers: int,
        device: torch.device,
        transport: Transport,
        local_rank: int = 0,
        reception: Literal["auto", "serial", "parallel"] = "auto",
        wire: Wire = "plain",
    ):
        self.num_workers = num_workers
        self.device = device
        self.transport = transport
        self.workers = transport.workers[transport.rank]
        self.is_server = transport.is_server
        self.share_of_work = (transport.rank, transport.size)
        self.ledger = Ledger(num_workers, device)
        self.stopwatch = DeviceStopwatch() if device.type == "cuda" else Stopwatch()
        self.wire = wire
        self._local_rank = local_rank
        self._reception = reception
        self._buffers: dict[str, Tensor] = {}

    # -- one iteration ----------------------------------------------------------------------------

    def exchange(self, payload: Payload, sent: Tensor | None, server: Server, reply: Reply = UPDATE) -> Tensor | None:
        check_uploads(payload, len(self.workers), sent)
        return self.outside(lambda: self._exchange(payload, sent, server, reply))

    def _exchange(self, payload: Payload, sent: Tensor | None, server: Server, reply: Reply) -> Tensor | None:
        form = WireFormat.of(payload, self.wire)
        self.stopwatch.enter("upload")
        self.transport.settle()
        if self.is_server:
            everyone = self._collect_flags(sent)
            returned = server(self._arrivals(payload, sent, everyone, form))
            self.stopwatch.enter("server")
            self.ledger.count_reply(reply, returned, payload)
            self.stopwatch.enter("download")
            self._send_reply(reply, returned, payload)
            returned = returned.dense()[0] if isinstance(returned, Payload) else returned
        else:
            self._upload(payload, sent, form)
            self.stopwatch.enter("download")
            returned = self._receive_reply(reply, payload)
        self.transport.hurry()
        self.stopwatch.enter("other")
        return returned

    def _upload(self, payload: Payload, sent: Tensor | None, form: WireFormat) -> None:
        """A worker's side: flags, what payloads are announced by, then the payloads of those that send."""
        flags = np.ones(len(self.workers), dtype=bool)
        if sent is not None:
            flags = sent.cpu().numpy()
            self.transport.send(torch.from_numpy(np.packbits(flags)), SERVER, "flags")
        senders = np.flatnonzero(flags)
        forms = dict.fromkeys(senders, form)
        if form.num_headers and len(senders):
            rows = torch.from_numpy(senders).to(self.device)
            headers = form.headers(*(None if x is None else x[rows] for x in (payload.indices, payload.count)))
            self.transport.send(headers, SERVER, "payloads")
            forms = {row: form.announced(own, "this rank") for row, own in zip(senders, headers, strict=True)}
        posted: deque[Callable[[], None]] = deque()
        sent_forms = [(row, its_form) for row, its_form in forms.items() if its_form.num_bytes]
        for number, (row, its_form) in enumerate(sent_forms):
            if len(posted) == UNDERWAY:
                posted.popleft()()
            data = self._packed(payload, row, its_form, number % UNDERWAY)
            posted.append(self.transport.post(data, SERVER, "payloads"))
        for wait in posted:
            wait()

    def _packed(self, payload: Payload, row: int, form: WireFormat, place: int) -> Tensor:
        """place: of those that are underway at the same time."""
        values, indices = (None if x is None else x[row, : form.k] for x in (payload.values, payload.indices))
        if form.is_plain and values.device == self.transport.device and values.is_contiguous():
            return values
        data = self._buffer(f"upload {place}", form.num_bytes)
        form.pack(values, indices, data, None if payload.side is None else payload.side[row])
        return data

    def _collect_flags(self, sent: Tensor | None) -> Tensor | None:
        """Who sends, [M] bool on the CPU; None for everyone."""
        if sent is None:
            return None
        arriving = []
        for rank in self.transport.others:
            packed = torch.empty((len(self.transport.workers[rank]) + 7) // 8, dtype=torch.uint8)
            arriving.append((rank, packed, self.transport.expect(packed, rank, "flags")))
        everyone = [sent.cpu().numpy()]
        for rank, packed, wait in arriving:
            wait()
            everyone.append(np.unpackbits(packed.numpy(), count=len(self.transport.workers[rank])).astype(bool))
        return torch.from_numpy(np.concatenate(everyone))

    def _forms(self, payload: Payload, everyone: Tensor | None, form: WireFormat) -> dict[int, WireFormat]:
        """What the other processes' workers upload, of those that do, in worker order."""
        forms = {}
        for rank in self.transport.others:
            senders = [m for m in self.transport.workers[rank] if everyone is None or everyone[m]]
            forms |= dict.fromkeys(senders, form)
            if not form.num_headers or not senders:
                continue
            headers = torch.empty(len(senders), form.num_headers, dtype=torch.int32)
            self.transport.receive(headers, rank, "payloads")
            for worker, own in zip(senders, headers, strict=True):
                forms[worker] = form.announced(own, f"worker {worker} of rank {rank}")
        return forms

    def _arrivals(
        self, payload: Payload, sent: Tensor | None, everyone: Tensor | None, form: WireFormat
    ) -> Iterator[Uploads]:
        """The server's own workers' uploads, then the others' as they arrive, in worker order; all are counted."""
        own = self.workers
        forms = self._forms(payload, everyone, form)
        together = self._takes_together(forms)
        groups = _alike(forms) if together else [[worker] for worker in forms]
        ahead = len(groups) if together else 1
        expected = deque()
        for number, workers in enumerate(groups[:ahead]):
            expected.append(self._expect(workers, forms[workers[0]], number, payload))
        self.stopwatch.enter("server")
        self.ledger.count_uploads(payload, sent)
        yield Uploads(slice(own.start, own.stop), payload, sent)
        for number, workers in enumerate(groups):
            self.stopwatch.enter("upload")
            arrived = expected.popleft()()
            self.stopwatch.enter("server")
            self.ledger.count_uploads(arrived, None)
            for rows in _runs(workers):
                held = slice(workers[rows.start], workers[rows.stop - 1] + 1)
                yield Uploads(held, _some(arrived, rows), None)
            if number + ahead < len(groups):
                following = groups[number + ahead]
                expected.append(self._expect(following, forms[following[0]], 0, payload))

    def _takes_together(self, forms: Mapping[int, WireFormat]) -> bool:
        if self._reception == "auto":
            limit = TOGETHER_BYTES[self.transport.device.type]
            return sum(form.num_bytes for form in forms.values()) <= limit
        return self._reception == "parallel"

    def _expect(self, workers: list[int], form: WireFormat, place: int, own: Payload) -> Callable[[], Payload]:
        """Begin to receive uploads of one form; the result waits for them: a payload with a row for each.

        place: of those that are received at the same time. own: a payload of the server's workers.
        """
        rank_of = {worker: rank for rank, held in enumerate(self.transport.workers) for worker in held}
        # gloo ends a process that gets more than it has room for: there is room for twice as much, to refuse it
        room = form.num_bytes if self.transport.device.type == "cuda" else 2 * form.num_bytes
        pitch = -(-room // ALIGNMENT) * ALIGNMENT
        data = self._buffer(f"payloads {place}", len(workers) * pitch).view(len(workers), pitch)
        form.blank(data)
        waits = []
        if form.num_bytes:
            for worker, row in zip(workers, data, strict=True):
                waits.append(self.transport.expect(row[:room], rank_of[worker], "payloads", form.num_bytes))

        def arrived() -> Payload:
            for wait in waits:
                wait()
            senders = [f"worker {worker} of rank {rank_of[worker]}" for worker in workers]
            payload = form.unpack(data, senders, self.device)
            if own.count is not None:
                payload = replace(payload, count=torch.full((len(workers),), form.k, device=self.device))
            if own.known_support:
                payload = replace(payload, indices=own.indices[:1].expand(len(workers), -1), known_support=True)
            return payload

        return arrived

    def _send_reply(self, reply: Reply, returned: Tensor | Payload | None, payload: Payload) -> None:
        match reply:
            case Update():
                self._broadcast(returned, payload)
            case Values():
                self._broadcast_whole(returned)
            case Coded(num, code):
                data = self._buffer("update", code.num_bytes(num))
                self.transport.broadcast(data.copy_(code.encode(returned, None)), "updates")
            case Positions(num, size):
                form = WireFormat.of_positions(num, size, self.wire)
                self._broadcast_form(form, None, returned, None)
            case Compressed():
                rows = (returned.values, returned.indices, returned.side)
                form = WireFormat.of(returned, self.wire)
                self._broadcast_form(form, *(None if part is None else part[0] for part in rows))

    def _receive_reply(self, reply: Reply, payload: Payload) -> Tensor | None:
        match reply:
            case Update():
                return self._download(payload)
            case Values(num):
                return self._download_whole(num, payload.values.dtype)
            case Coded(num, code):
                data = self._buffer("update", code.num_bytes(num))
                self.transport.broadcast(data, "updates")
                return code.decode(data.to(self.device), num, None, payload.values.dtype)
            case Positions(num, size):
                return self._receive_form(WireFormat.of_positions(num, size, self.wire))[2]
            case Compressed(like):
                parts = self._receive_form(WireFormat.of(like, self.wire))
                values, side, indices = (None if part is None else part.unsqueeze(0) for part in parts)
                return replace(like, values=values, side=side, indices=indices).dense()[0]
        return None

    def _broadcast_form(
        self, form: WireFormat, values: Tensor | None, indices: Tensor | None, side: Tensor | None
    ) -> None:
        """Send values [k], indices [k] and side scalars to all, as what the form says of them."""
        if form.num_headers:
            header = form.headers(indices.unsqueeze(0), None)
            self.transport.broadcast(header, "updates")
            form = form.announced(header[0], "this rank")
        data = self._buffer("update", form.num_bytes)
        form.pack(values, indices, data, side)
        self.transport.broadcast(data, "updates")

    def _receive_form(self, form: WireFormat) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Values, side scalars and indices, as `WireFormat.parts` gives them."""
        if form.num_headers:
            form = form.announced(self._receive_header(form), "the server")
        data = self._buffer("update", form.num_bytes)
        self.transport.broadcast(data, "updates")
        return form.parts(data, self.device)

    def _broadcast(self, update: Tensor, payload: Payload) -> None:
        """Send the update to all, dense or, where that is shorter, as values and indices of its support."""
        if payload.indices is not None:
            support = _support(update)
            form = WireFormat.of_support(update.dtype, update.numel(), self.wire)
            header = form.headers(support.unsqueeze(0), torch.tensor([len(support)]))
            sparse = form.announced(header[0], "this rank")
            is_shorter = sparse.num_bytes < update.numel() * update.element_size()
            self.transport.broadcast(header if is_shorter else header.fill_(DENSE), "updates")
            if is_shorter:
                data = self._sparse_buffer(sparse)
                sparse.pack(update[support], support, data)
                self.transport.broadcast(data, "updates")
                return
        self._broadcast_whole(update)

    def _broadcast_whole(self, vector: Tensor) -> None:
        if vector.device != self.transport.device:
            vector = self._buffer("update", vector.numel() * vector.element_size()).view(vector.dtype).copy_(vector)
        self.transport.broadcast(vector, "updates")

    def _download(self, payload: Payload) -> Tensor:
        size, dtype = payload.size, payload.values.dtype
        if payload.indices is None:
            return self._download_whole(size, dtype)
        form = WireFormat.of_support(dtype, size, self.wire)
        header = self._receive_header(form)
        if int(header[0]) == DENSE:
            return self._download_whole(size, dtype)
        sparse = form.announced(header, "the server")
        update = self._buffer("dense update", size * dtype.itemsize, self.device).view(dtype).zero_()
        data = self._sparse_buffer(sparse)
        self.transport.broadcast(data, "updates")
        values, _, indices = sparse.parts(data, self.device)
        return update.index_copy_(0, indices, values)

    def _receive_header(self, form: WireFormat) -> Tensor:
        header = torch.empty(1, form.num_headers, dtype=torch.int32)
        self.transport.broadcast(header, "updates")
        return header[0]

    def _download_whole(self, size: int, dtype: torch.dtype) -> Tensor:
        data = self._buffer("update", size * dtype.itemsize)
        self.transport.broadcast(data, "updates")
        return data.view(dtype).to(self.device)

    def _sparse_buffer(self, sparse: WireFormat) -> Tensor:
        """Memory for an update's support: it is sent only where it is shorter than the whole update."""
        return self._buffer("update", sparse.size * sparse.dtype.itemsize)[: sparse.num_bytes]

    def request(self, asked: Tensor | None, parameters: Tensor) -> Tensor:
        return self.outside(lambda: self._request(asked, parameters))

    def _request(self, asked: Tensor | None, parameters: Tensor) -> Tensor:
        self.stopwatch.enter("download")
        self.transport.settle()
        if self.is_server:
            self.ledger.count_request(asked, parameters)
            self._ask(asked.cpu().numpy(), parameters)
            mine = asked[: len(self.workers)]
        else:
            packed = torch.empty((len(self.workers) + 7) // 8, dtype=torch.uint8)
            self.transport.receive(packed, SERVER, "flags")
            flags = np.unpackbits(packed.numpy(), count=len(self.workers)).astype(bool)
            if flags.any():
                data = self._buffer("update", parameters.numel() * parameters.element_size())
                self.transport.receive(data, SERVER, "updates")
                parameters.copy_(data.view(parameters.dtype))
            mine = torch.from_numpy(flags).to(self.device)
        self.stopwatch.enter("other")
        return mine

    def _ask(self, asked: np.ndarray, parameters: Tensor) -> None:
        data = parameters.to(self.transport.device)
        for rank in self.transport.others:
            held = self.transport.workers[rank]
            flags = asked[held.start : held.stop]
            self.transport.send(torch.from_numpy(np.packbits(flags)), rank, "flags")
            if flags.any():
                self.transport.send(data, rank, "updates")

    def _buffer(self, name: str, num_bytes: int, device: torch.device | None = None) -> Tensor:
        """Bytes that are kept between iterations, on the wire's device (in pinned memory if that is the host's)."""
        kept = self._buffers.get(name)
        if kept is None or len(kept) < num_bytes:
            device = device or self.transport.device
            pin = device.type == "cpu" and self.device.type == "cuda"
            kept = self._buffers[name] = torch.empty(num_bytes, dtype=torch.uint8, device=device, pin_memory=pin)
        return kept[:num_bytes]

    # -- between iterations -----------------------------------------------------------------------

    def add_shares(self, share: Tensor) -> Tensor:
        total = share.to(self.transport.device, copy=True)
        if self.is_server:
            for rank in self.transport.others:  # in rank order: the sum is the same in every run
                other = torch.empty_like(total)
                self.transport.receive(other, rank, "apart")
                total += other
        else:
            self.transport.send(total, SERVER, "apart")
        self.transport.broadcast(total, "apart")
        return total.to(share.device)

    def gather(self, held: Tensor) -> Tensor:
        if not self.is_server:
            self.transport.send(held.to(self.transport.device).contiguous(), SERVER, "apart")
            return held
        rows = [held]
        for rank in self.transport.others:
            shape = (len(self.transport.workers[rank]), *held.shape[1:])
            part = torch.empty(shape, dtype=held.dtype, device=self.transport.device)
            self.transport.receive(part, rank, "apart")
            rows.append(part.to(held.device))
        return torch.cat(rows)

    def scatter(self, rows: Tensor | None, held: Tensor) -> None:
        if self.is_server:
            held.copy_(rows[: len(held)])
            for rank in self.transport.others:
                workers = self.transport.workers[rank]
                part = rows[workers.start : workers.stop].to(self.transport.device, held.dtype).contiguous()
                self.transport.send(part, rank, "apart")
        else:
            part = torch.empty(held.shape, dtype=held.dtype, device=self.transport.device)
            self.transport.receive(part, SERVER, "apart")
            held.copy_(part)

    def spread(self, tensor: Tensor) -> None:
        data = tensor.to(self.transport.device).contiguous()
        self.transport.broadcast(data, "apart")
        tensor.copy_(data)

    def largest(self, wish: int) -> int:
        decision = torch.tensor([wish], dtype=torch.int32)
        if self.is_server:
            for rank in self.transport.others:
                other = torch.empty_like(decision)
                self.transport.receive(other, rank, "apart")
                decision = torch.maximum(decision, other)
        else:
            self.transport.send(decision, SERVER, "apart")
        self.transport.broadcast(decision, "apart")
        return int(decision)

    def settle(self) -> None:
        self.transport.settle()

    def check_equal(self, facts: Mapping[str, str]) -> None:
        digests = b"".join(hashlib.sha256(value.encode()).digest() for value in facts.values())
        mine = torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(len(facts), -1)
        different = torch.zeros(2, dtype=torch.int32)  # 1 + fact, rank
        if self.is_server:
            for rank in self.transport.others:
                theirs = torch.empty_like(mine)
                self.transport.receive(theirs, rank, "apart")
                unequal = (mine != theirs).any(1).nonzero()
                if len(unequal) and not different.any():
                    different = torch.tensor([1 + int(unequal[0]), rank], dtype=torch.int32)
        else:
            self.transport.send(mine, SERVER, "apart")
        self.transport.broadcast(different, "apart")
        fact, rank = different.tolist()
        if fact:
            name = list(facts)[fact - 1]
            raise UserError(
                f"{self.transport.name(rank)} has another {name} than rank 0; start all processes with the same"
            )

    def describe(self) -> dict[str, Any]:
        transport = self.transport
        return {
            "kind": "distributed",
            "processes": transport.size,
            "payloads_through": "nccl" if transport.device.type == "cuda" else "gloo",
            "wire": self.wire,
            "server_sent_bytes": dict(transport.sent),  # since this process began
            "server_received_bytes": dict(transport.received),
        }

    def in_turn(self, load: Callable[[], T]) -> T:
        loaded = load() if self._local_rank == 0 else None
        self.largest(0)
        return load() if loaded is None else loaded


def _alike(forms: Mapping[int, WireFormat]) -> list[list[int]]:
    """Workers whose uploads follow each other and are of one form."""
    return [list(workers) for _, workers in groupby(forms, key=forms.__getitem__)]


def _runs(workers: list[int]) -> list[slice]:
    """Ascending numbers, in parts without gaps."""
    bounds = [0, *(i for i in range(1, len(workers)) if workers[i] > workers[i - 1] + 1), len(workers)]
    return [slice(first, end) for first, end in pairwise(bounds)]


def _some(payload: Payload, rows: slice) -> Payload:
    parts = {name: getattr(payload, name) for name in ("values", "indices", "count", "side")}
    return replace(payload, **{name: part[rows] for name, part in parts.items() if part is not None})


def _support(vector: Tensor) -> Tensor:
    """vector.nonzero().squeeze(1), several times as fast on the CPU."""
    if vector.is_cuda:
        return vector.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(vector.numpy() != 0))
