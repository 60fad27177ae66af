"""Payloads as bytes on the wire: the values (or their code), then side scalars, then the positions.

The plain wire sends positions as int32; the packed one in the shortest of the codes that can be written, upload by
upload. Values are the same on both. What is received is what was sent, to the bit and in the same order.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from sasg.cluster.codes import WRITABLE, packed_bits
from sasg.cluster.payload import Payload, Segment
from sasg.cluster.position_coding import decode_positions, encode_positions, min_bits
from sasg.cluster.value_codes import ValueCode
from sasg.errors import ClusterError, UserError

Wire = Literal["plain", "packed"]

# What a message is not: eight bytes that no code makes but by a chance of 2^-64. Shorter messages are not looked at.
_UNWRITTEN = (0x9E, 0x37, 0x79, 0xB9, 0x7F, 0x4A, 0x7C, 0x15)


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
        headers = headers.tolist()
        form = self
        if self.varying:
            k = headers[0]
            if not 0 <= k <= self.k:
                raise ClusterError(f"{sender} sent a payload of {k} entries, outside 0..{self.k}; it is refused")
            form = replace(form, k=k)
        if self._packs:
            num_bytes, place = divmod(headers[-1], len(WRITABLE))
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
        """Mark where a message of the right length ends, so that `unpack` can tell if it was another."""
        for where in (self._last_bytes, self._next_bytes):
            data[where].copy_(_unwritten(data[where]))

    @property
    def _last_bytes(self) -> slice:
        end = self.num_bytes
        return slice(end - len(_UNWRITTEN), end) if end >= len(_UNWRITTEN) else slice(0)

    @property
    def _next_bytes(self) -> slice:
        return slice(self.num_bytes, self.num_bytes + len(_UNWRITTEN))

    def unpack(self, data: Tensor, sender: str, device: torch.device) -> Payload:
        """The payload [1, k] in `data`, sharing its memory where it can. ClusterError if it is damaged.

        `data` was marked by `blank`; it may be longer than a payload, to see messages that are too long. What is not
        in the message (a length, positions that every process knows) is not in the payload.
        """
        last, after = data[self._last_bytes], data[self._next_bytes]
        if (len(last) and torch.equal(last, _unwritten(last))) or not torch.equal(after, _unwritten(after)):
            raise ClusterError(
                f"{sender} sent a payload of the wrong length (not {self.num_bytes} bytes); it is refused"
            )
        values, side, indices = self.parts(data, device)
        if indices is not None and self.k:
            lowest, highest = (int(bound) for bound in indices.aminmax())
            if lowest < 0 or highest >= self.size:
                found, last = lowest if lowest < 0 else highest, self.size - 1
                raise ClusterError(f"{sender} sent a payload with index {found}, outside 0..{last}; it is refused")
        values, side, indices = (None if part is None else part.unsqueeze(0) for part in (values, side, indices))
        return Payload(values, indices, self.segments, code=self.code, side=side)

    def parts(self, data: Tensor, device: torch.device) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Values [k], side scalars and positions [k] (int64) in `data`, each None if it is not sent."""
        values = side = indices = None
        end = self.value_bytes
        if self.num_side:
            side = _typed(data[end : end + self.side_bytes], self.side_dtype).to(device)
        if self.code is not None:
            values = self.code.decode(data[:end].to(device), self.k, side, self.dtype)
        elif self.dtype is not None:
            values = _typed(data[:end], self.dtype).to(device)
        if self.size is not None:
            positions = data[end + self.side_bytes : self.num_bytes].to(device)
            indices = decode_positions(self.position_code, positions, self.k, self._coded)
        return values, side, indices


@cache
def _mark(device: torch.device) -> Tensor:
    return torch.tensor(_UNWRITTEN, dtype=torch.uint8, device=device)


def _unwritten(data: Tensor) -> Tensor:
    return _mark(data.device)[: len(data)]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _typed(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers, in place where they lie well for that."""
    if data.storage_offset() % dtype.itemsize:
        data = data.clone()
    return data.view(dtype)
