"""What workers upload."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sasg.cluster.accounting.value_codes import ValueCode
from sasg.errors import ContractError


@dataclass(frozen=True)
class Segment:
    """A part of the flat vector that is sparsified on its own: `kept` of its `size` entries are uploaded.

    `kept` is an upper bound where the payload has a `count`.
    """

    size: int
    kept: int


@dataclass(frozen=True)
class Payload:
    """One upload of each worker held by this process; rows of workers that do not send are ignored.

    values: [W, k]; None for a vote, which is positions alone. indices: [W, k] positions in the flat vector [d], or
    None for a dense payload (k = d).
    segments: what was sparsified, in the order of the payload's entries; empty for a dense payload.
    count: [W] int64, only the first count[m] entries of row m are uploaded, of which the indices ascend; what stands
    behind them is ignored, but its indices are in [0, d). With one segment only. Uploads that the server gets may be
    of different widths k.
    code: how values go over a link, where not as plain floats; the values are those that its quantiser makes.
    side: [W, s] scalars that go along (norms, group means).
    known_support: every process knows the indices, which are the same in all rows: they are not sent.
    in_range: the indices are known to be in [0, d); others are looked at, on the CPU alone.
    ContractError: these do not fit each other.
    """

    values: Tensor | None
    indices: Tensor | None = None
    segments: tuple[Segment, ...] = ()
    count: Tensor | None = None
    code: ValueCode | None = None
    side: Tensor | None = None
    known_support: bool = False
    in_range: bool = False

    def __post_init__(self):
        if self.indices is None and (self.is_vote or self.known_support):
            raise ContractError("a payload without values, or with a known support, needs indices")
        if self.count is not None and (len(self.segments) != 1 or self.known_support):
            raise ContractError("a payload with a count needs exactly one segment, and no known support")
        if self.code is not None and self.code.needs_side and self.side is None:
            raise ContractError("a payload with a code needs the side scalars of its code")
        for name, tensor in (("values", self.values), ("indices", self.indices), ("side", self.side)):
            if tensor is not None and tensor.dim() != 2:
                raise ContractError(f"a payload's {name} must be of two axes, a row for each worker: {_shape(tensor)}")
        if self.indices is not None:
            self._check_indices()

    def _check_indices(self) -> None:
        indices, values = self.indices, self.values
        if indices.dtype != torch.int64:
            raise ContractError(f"a payload's indices must be int64, not {str(indices.dtype).removeprefix('torch.')}")
        if values is not None and values.shape != indices.shape:
            raise ContractError(f"a payload's values are of shape {_shape(values)}, its indices {_shape(indices)}")
        if not self.segments:
            raise ContractError("a payload with indices needs the segments that were sparsified")
        if (most := sum(segment.kept for segment in self.segments)) < indices.shape[1]:
            raise ContractError(f"a payload has {indices.shape[1]} entries a row, its segments keep at most {most}")
        if self.in_range or indices.is_cuda or not indices.numel():
            return
        lowest, highest = (int(bound) for bound in indices.aminmax())
        if lowest < 0 or highest >= self.size:
            found = lowest if lowest < 0 else highest
            raise ContractError(f"a payload has index {found}, outside 0..{self.size - 1}")

    @classmethod
    def of_survivors(cls, vectors: Tensor, survives: Tensor, **options) -> "Payload":
        """The entries of `vectors` [W, d] where `survives` [W, d] is true, without host synchronisation."""
        indices, count = compact(survives)
        size = vectors.shape[1]
        options |= {"count": count, "in_range": True}
        return cls(vectors.gather(1, indices), indices, (Segment(size, size),), **options)

    @property
    def is_vote(self) -> bool:
        return self.values is None

    @property
    def entries(self) -> Tensor:
        """The values [W, k], or the indices where there are none."""
        return self.indices if self.values is None else self.values

    @property
    def size(self) -> int:
        """d, the length of the vector that the payload is about."""
        return self.values.shape[1] if self.indices is None else sum(segment.size for segment in self.segments)

    @property
    def bits_per_value(self) -> int:
        if self.values is None:
            return 0
        return self.values.element_size() * 8 if self.code is None else self.code.bits

    @property
    def side_bits(self) -> int:
        """Bits of one upload's side scalars, and of its length where that varies."""
        scalars = 0 if self.side is None else self.side.shape[1] * self.side.element_size() * 8
        return scalars + (0 if self.count is None else COUNT_BITS)

    def dense(self) -> Tensor:
        """[W, d], zero where no entry is uploaded."""
        values = self.uploaded(None)
        if self.indices is None:
            return values
        return values.new_zeros(len(values), self.size).scatter_add_(1, self.indices, values)

    def uploaded(self, sent: Tensor | None) -> Tensor:
        """The values [W, k], zero where they are not uploaded: beyond `count`, and in rows outside `sent` [W]."""
        values = self.values
        if self.count is not None:
            values = torch.where(first_entries(self.count, values.shape[1]), values, 0)
        return values if sent is None else torch.where(sent.unsqueeze(1), values, 0)


def check_uploads(payload: Payload, num_held: int, sent: Tensor | None) -> None:
    """ContractError unless it is a payload with a row, and a flag in `sent`, for each of the workers held here."""
    if not isinstance(payload, Payload):
        raise ContractError(f"an upload is a {type(payload).__name__}, not a Payload")
    if len(payload.entries) != num_held:
        raise ContractError(f"a payload is of shape {_shape(payload.entries)}, and there are {num_held} workers here")
    if sent is not None and (sent.dtype != torch.bool or sent.shape != (num_held,)):
        kind = str(sent.dtype).removeprefix("torch.")
        raise ContractError(f"who sends must be [{num_held}] bool or None, not {_shape(sent)} {kind}")


COUNT_BITS = 32  # of the length that goes in front of an upload of varying length


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def first_entries(count: Tensor, width: int) -> Tensor:
    """[n, width] bool: the first count[m] entries of each row."""
    return torch.arange(width, device=count.device) < count.unsqueeze(1)


def compact(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Where `mask` [n, d] is true: positions [n, d] int64, ascending, zero behind the first count [n] of each row."""
    n, d = mask.shape
    numbered, every = mask.cumsum(1), torch.arange(d, device=mask.device)
    count = numbered[:, -1]
    # No slot twice: many writes to one place take turns, seconds for a large d where a GPU is to be deterministic.
    slots = torch.where(mask, numbered - 1, count.unsqueeze(1) + every - numbered)
    positions = torch.empty(n, d, dtype=torch.int64, device=mask.device)
    positions.scatter_(1, slots, every.expand(n, d))
    return positions.masked_fill_(~first_entries(count, d), 0), count
