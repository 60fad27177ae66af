"""Payloads as bytes on the wire: the values (or their code), then side scalars, then the positions as int32."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sasg.cluster.payload import Payload, Segment
from sasg.cluster.value_codes import ValueCode
from sasg.errors import ClusterError

_UNWRITTEN = 0xFF  # four such bytes end no honest message: index -1, or a NaN that no arithmetic makes


@dataclass(frozen=True)
class WireFormat:
    """The form of one worker's upload: k values of `dtype` and, if `size` is given, k positions in [0, size).

    dtype: None for positions alone. side: how many scalars go along, and their type. Where the length varies, it goes
    in front, in a message of its own, and the rest is of the form `of_length`.
    """

    k: int
    dtype: torch.dtype | None
    size: int | None
    segments: tuple[Segment, ...] = ()
    code: ValueCode | None = None
    num_side: int = 0
    side_dtype: torch.dtype | None = None

    @classmethod
    def of(cls, payload: Payload) -> "WireFormat":
        return cls(
            payload.entries.shape[1],
            None if payload.is_vote else payload.values.dtype,
            None if payload.indices is None or payload.known_support else payload.size,
            payload.segments,
            payload.code,
            *((0, None) if payload.side is None else (payload.side.shape[1], payload.side.dtype)),
        )

    def of_length(self, k: int) -> "WireFormat":
        return replace(self, k=k)

    @property
    def value_bytes(self) -> int:
        if self.dtype is None:
            return 0
        return self.k * self.dtype.itemsize if self.code is None else self.code.num_bytes(self.k)

    @property
    def side_bytes(self) -> int:
        return self.num_side * self.side_dtype.itemsize if self.num_side else 0

    @property
    def num_bytes(self) -> int:
        """As the ledger's value, int32 index (or vote) and side bits, / 8; coded values end at a whole byte."""
        return self.value_bytes + self.side_bytes + (0 if self.size is None else 4 * self.k)

    @property
    def is_plain(self) -> bool:
        """Whether values are all there is, as they lie in memory."""
        return self.num_bytes == self.value_bytes and self.code is None

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
            out[end + self.side_bytes : self.num_bytes].copy_(_bytes(indices.to(torch.int32)))

    def blank(self, data: Tensor) -> None:
        """Mark in `data` [..., bytes] where messages of the right length end, so that `unpack` can tell others."""
        data[..., self._end].fill_(_UNWRITTEN)

    @property
    def _end(self) -> slice:
        """A message's last four bytes, and four behind it."""
        return slice(max(0, self.num_bytes - 4), self.num_bytes + 4)

    def unpack(self, data: Tensor, senders: Sequence[str], device: torch.device) -> Payload:
        """The payloads [n, k] in the rows of `data` [n, bytes], sharing its memory where they can.

        ClusterError, with its sender's name, if one is damaged. Rows were marked by `blank`; they may be longer than a
        payload, to see messages that are too long. What is not in a message (a length, positions that every process
        knows) is not in the payload.
        """
        unwritten = data[:, self._end].cpu().numpy() == _UNWRITTEN
        wrong = ~unwritten[:, min(4, self.num_bytes) :].all(1)
        if self.num_bytes >= 4:
            wrong |= unwritten[:, :4].all(1)
        if self.num_bytes and wrong.any():
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
            indices = _typed(data[..., end + self.side_bytes : self.num_bytes], torch.int32).to(device, torch.int64)
        return values, side, indices

    def _decoded(self, data: Tensor, side: Tensor) -> Tensor:
        if data.dim() == 1:
            return self.code.decode(data, self.k, side, self.dtype)
        return torch.stack([self._decoded(row, scalars) for row, scalars in zip(data, side, strict=True)])


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def _typed(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as numbers, in place where they lie well for that."""
    if not data.numel():
        return data.new_empty(data.shape, dtype=dtype)
    if any(places % dtype.itemsize for places in (data.storage_offset(), *data.stride()[:-1])):
        data = data.clone(memory_format=torch.contiguous_format)
    return data.view(dtype)
