"""What workers upload."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sasg.cluster.value_codes import ValueCode


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
    summed: values is [1, d], the sum over this process's workers, all of which send (simulation only).
    lasting: the same memory comes every time, and rows of workers that do not send hold their last upload.
    count: [W] int64, only the first count[m] entries of row m are uploaded, of which the indices ascend; what stands
    behind them is ignored, but its indices are in [0, d). With one segment only. Uploads that the server gets may be
    of different widths k.
    code: how values go over a link, where not as plain floats; the values are those that its quantiser makes.
    side: [W, s] scalars that go along (norms, group means).
    known_support: every process knows the indices, which are the same in all rows: they are not sent.
    """

    values: Tensor | None
    indices: Tensor | None = None
    segments: tuple[Segment, ...] = ()
    summed: bool = False
    lasting: bool = False
    count: Tensor | None = None
    code: ValueCode | None = None
    side: Tensor | None = None
    known_support: bool = False

    def __post_init__(self):
        assert self.indices is not None or not (self.is_vote or self.known_support)
        assert self.count is None or (len(self.segments) == 1 and not self.known_support)
        assert self.code is None or self.side is not None

    @classmethod
    def of_survivors(cls, vectors: Tensor, survives: Tensor, **options) -> "Payload":
        """The entries of `vectors` [W, d] where `survives` [W, d] is true, without host synchronisation."""
        indices, count = compact(survives)
        size = vectors.shape[1]
        return cls(vectors.gather(1, indices), indices, (Segment(size, size),), count=count, **options)

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

    def uploaded(self, sent: Tensor | None) -> Tensor:
        """The values [W, k], zero where they are not uploaded: beyond `count`, and in rows outside `sent` [W]."""
        values = self.values
        if self.count is not None:
            values = torch.where(first_entries(self.count, values.shape[1]), values, 0)
        return values if sent is None else torch.where(sent.unsqueeze(1), values, 0)


COUNT_BITS = 32  # of the length that goes in front of an upload of varying length


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
