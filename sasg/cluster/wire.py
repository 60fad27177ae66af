"""Payloads as bytes on the wire: the values (or their code), then side scalars, then the positions.

The plain wire sends positions as int32; the packed one in the shortest of the codes that can be written, upload by
upload. Values are the same on both. What is received is what was sent, to the bit and in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sasg.cluster.accounting.codes import WRITABLE, packed_bits
from sasg.cluster.accounting.position_coding import decode_positions, encode_positions, min_bits
from sasg.cluster.accounting.value_codes import ValueCode
from sasg.cluster.payload import Payload, Segment
from sasg.errors import ClusterError, UserError

Wire = Literal["plain", "packed"]

# What a message is not: eight bytes that no code makes but by a chance of 2^-64. Shorter messages are not looked at.
_UNWRITTEN = np.array((0x9E, 0x37, 0x79, 0xB9, 0x7F, 0x4A, 0x7C, 0x15), dtype=np.uint8)
_NUM_MARKS = len(_UNWRITTEN)


@dataclass(frozen=True)
class WireFormat:
    """The form of one worker's upload: k values of `dtype` and, if `size` is given, k positions in [0, size).

    dtype: None for positions alone. side: how many scalars go along, and their type. varying: the number of entries
    differs between uploads, and k is the most there may be. What is not known beforehand of an upload is announced by
    int32 `headers`, in a message in front; the rest is of the form `announced` by them.
    position_code: of `WRITABLE`; None before it is announced.
    """

    k: int
    dtype: torch.dtype | None
    size: int | None
    segments: tuple[Segment, ...] = ()
    code: ValueCode | None = None
    num_side: int = 0
    side_dtype: torch.dtype | None = None
    varying: bool = False
    position_code: str | None = "int32"
    announced_position_bytes: int | None = None

    @classmethod
    def of(cls, payload: Payload, wire: Wire = "plain") -> "WireFormat":
        return cls(
            payload.entries.shape[1],
            None if payload.is_vote else payload.values.dtype,
            None if payload.indices is None or payload.known_support else payload.size,
            payload.segments,
            payload.code,
            *((0, None) if payload.side is None else (payload.side.shape[1], payload.side.dtype)),
            varying=payload.count is not None,
            position_code="int32" if wire == "plain" else None,
        )

    @classmethod
    def of_support(cls, dtype: torch.dtype, size: int, wire: Wire) -> "WireFormat":
        """Of the values of a vector [size] on its support, and the positions of that."""
        segments = (Segment(size, size),)
        return cls(size, dtype, size, segments, varying=True, position_code="int32" if wire == "plain" else None)

    @classmethod
    def of_positions(cls, num: int, size: int, wire: Wire) -> "WireFormat":
        segments = (Segment(size, num),)
        return cls(num, None, size, segments, position_code="int32" if wire == "plain" else None)

    # -- what is announced ------------------------------------------------------------------------

    @property
    def num_headers(self) -> int:
        """How many int32 announce an upload."""
        return self.varying + self._packs

    @property
    def _packs(self) -> bool:
        return self.size is not None and self.position_code is None

    def headers(self, indices: Tensor | None, count: Tensor | None) -> Tensor:
        """int32 [n, num_headers] on the CPU, of n uploads: their lengths `count` [n], how `indices` [n, k] are sent.

        The latter is 4 * (how many bytes) + the code's place in `WRITABLE`.
        """
        columns = [count.cpu()] if self.varying else []
        if self._packs:
            bits, place = packed_bits(indices, count, self.segments)
            columns.append((bits // 8 * len(WRITABLE) + place).cpu())
        headers = torch.stack(columns, dim=1)
        if self._packs and int(headers.amax()) >= 2**31:
            raise UserError("cluster.wire=packed: a payload's positions take more than 512 MiB; use cluster.wire=plain")
        return headers.to(torch.int32)

    def announced(self, headers: Tensor, sender: str) -> "WireFormat":
        """The form of an upload, from its row of `headers`. ClusterError if there is no such form."""
        announced = headers.tolist()
        form = self
        if self.varying:
            k = announced[0]
            if not 0 <= k <= self.k:
                raise ClusterError(f"{sender} sent a payload of {k} entries, outside 0..{self.k}; it is refused")
            form = replace(form, k=k)
        if self._packs:
            num_bytes, place = divmod(announced[-1], len(WRITABLE))
            form = replace(form, position_code=WRITABLE[place], announced_position_bytes=num_bytes)
            least = (min_bits(form.position_code, form._coded) + 7) // 8
            if num_bytes < least or num_bytes > (4 * form.k if form.position_code == "delta" else least):
                raise ClusterError(
                    f"{sender} sent {form.k} positions as {num_bytes} bytes of {form.position_code}; it is refused"
                )
        return form

    @property
    def _coded(self) -> tuple[Segment, ...]:
        """The segments that positions are coded in, with as many entries as are sent."""
        return (Segment(self.size, self.k),) if self.varying else self.segments

    # -- how many bytes ---------------------------------------------------------------------------

    @property
    def value_bytes(self) -> int:
        if self.dtype is None:
            return 0
        return self.k * self.dtype.itemsize if self.code is None else self.code.num_bytes(self.k)

    @property
    def side_bytes(self) -> int:
        return self.num_side * self.side_dtype.itemsize if self.num_side else 0

    @property
    def position_bytes(self) -> int:
        if self.size is None:
            return 0
        return 4 * self.k if self.announced_position_bytes is None else self.announced_position_bytes

    @property
    def num_bytes(self) -> int:
        """As the ledger's value, index (or vote) and side bits, / 8; coded values end at a whole byte."""
        return self.value_bytes + self.side_bytes + self.position_bytes

    @property
    def is_plain(self) -> bool:
        """Whether values are all there is, as they lie in memory."""
        return self.num_bytes == self.value_bytes and self.code is None

    # -- the bytes --------------------------------------------------------------------------------

    def pack(self, values: Tensor | None, indices: Tensor | None, out: Tensor, side: Tensor | None = None) -> None:
        """Write values [k], side scalars and indices [k] to the bytes `out`, on whatever device that is."""
        end = self.value_bytes
        if self.code is not None:
            out[:end].copy_(self.code.encode(values, side))
        elif self.dtype is not None:
            out[:end].copy_(_bytes(values))
        if self.num_side:
            out[end : end + self.side_bytes].copy_(_bytes(side))
        if self.size is not None:
            positions = encode_positions(self.position_code, indices, self._coded, self.position_bytes)
            out[end + self.side_bytes : self.num_bytes].copy_(positions)

    def blank(self, data: Tensor) -> None:
        """Mark in `data` [..., bytes] where messages of the right length end, so that `unpack` can tell others."""
        end = self.num_bytes
        for where in (slice(end - _NUM_MARKS, end) if end >= _NUM_MARKS else slice(0), slice(end, end + _NUM_MARKS)):
            marked = data[..., where]
            marked.copy_(_marks(data.device)[: marked.shape[-1]])

    def unpack(self, data: Tensor, senders: Sequence[str], device: torch.device) -> Payload:
        """The payloads [n, k] in the rows of `data` [n, bytes], sharing its memory where they can.

        ClusterError, with its sender's name, if one is damaged. Rows were marked by `blank`; they may be longer than a
        payload, to see messages that are too long. What is not in a message (a length, positions that every process
        knows) is not in the payload.
        """
        end = self.num_bytes
        around = data[:, max(0, end - _NUM_MARKS) : end + _NUM_MARKS].cpu().numpy()
        last, after = np.split(around, [min(end, _NUM_MARKS)], axis=1)
        wrong = (after != _UNWRITTEN[: after.shape[1]]).any(1)
        if end >= _NUM_MARKS:
            wrong |= (last == _UNWRITTEN).all(1)
        if end and wrong.any():
            sender = senders[int(wrong.argmax())]
            raise ClusterError(
                f"{sender} sent a payload of the wrong length (not {self.num_bytes} bytes); it is refused"
            )
        values, side, indices = self.parts(data, device)
        if indices is not None and self.k:
            self._check_range(indices, senders)
        return Payload(values, indices, self.segments, code=self.code, side=side, in_range=True)

    def _check_range(self, indices: Tensor, senders: Sequence[str]) -> None:
        lowest, highest = torch.stack(indices.aminmax()).tolist()
        if lowest >= 0 and highest < self.size:
            return
        for sender, row in zip(senders, indices.tolist(), strict=True):
            if outside := [index for index in (min(row), max(row)) if not 0 <= index < self.size]:
                last = self.size - 1
                raise ClusterError(f"{sender} sent a payload with index {outside[0]}, outside 0..{last}; it is refused")

    def parts(self, data: Tensor, device: torch.device) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Values [..., k], side scalars and positions [..., k] (int64) in `data` [..., bytes]; None if not sent."""
        values = side = indices = None
        end = self.value_bytes
        if self.num_side:
            side = _typed(data[..., end : end + self.side_bytes], self.side_dtype).to(device)
        if self.code is not None:
            values = self._decoded(data[..., :end].to(device), side)
        elif self.dtype is not None:
            values = _typed(data[..., :end], self.dtype).to(device)
        if self.size is not None:
            positions = data[..., end + self.side_bytes : self.num_bytes].to(device)
            indices = self._positions(positions)
        return values, side, indices

    def _decoded(self, data: Tensor, side: Tensor | None) -> Tensor:
        if data.dim() == 1:
            return self.code.decode(data, self.k, side, self.dtype)
        sides = [None] * len(data) if side is None else side
        return torch.stack([self._decoded(row, scalars) for row, scalars in zip(data, sides, strict=True)])

    def _positions(self, data: Tensor) -> Tensor:
        if self.position_code == "int32":
            return _typed(data, torch.int32).long()
        if data.dim() == 1:
            return decode_positions(self.position_code, data, self.k, self._coded)
        return torch.stack([self._positions(row) for row in data])


@cache
def _marks(device: torch.device) -> Tensor:
    return torch.from_numpy(_UNWRITTEN).to(device)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _typed(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers, in place where they lie well for that."""
    if not data.numel():
        return data.new_empty(data.shape, dtype=dtype)
    if any(places % dtype.itemsize for places in (data.storage_offset(), *data.stride()[:-1])):
        data = data.clone(memory_format=torch.contiguous_format)
    return data.view(dtype)
