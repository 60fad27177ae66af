"""What does a worker upload?"""

from abc import abstractmethod
from math import floor
from typing import ClassVar

from torch import Tensor

from sasg.algorithms.algorithm import Part, Schedule, Workspace
from sasg.algorithms.parts.segments import Scope, segment_sizes
from sasg.algorithms.parts.top_k import TopKSelector
from sasg.cluster import Payload, Segment
from sasg.errors import UserError
from sasg.gradients import Gradients


class Compressor(Part):
    """Turns vectors [W, d] into payloads.

    num_kept: k, the entries of every upload that has indices, known after set-up; None: uploads are dense.
    returns_input: whether a payload's values are the vectors that it was given, in their memory.
    no_memory: why there can be no error memory before it, in words.
    no_latest: why a server cannot keep the latest of its uploads, in words.
    """

    num_kept: int | None = None
    returns_input: ClassVar[bool] = False
    no_memory: str | None = None
    no_latest: ClassVar[str | None] = None

    @abstractmethod
    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        """The payloads of `vectors` [W, d]; rows that do not send may hold anything finite."""

    def take_(self, vectors: Tensor, sent: Tensor | None, gradients: Gradients, scale: Tensor) -> Payload:
        """Add scale * gradients to `vectors` [W, d], and take their payloads out of them, in the rows that send.

        What remains is not transmitted.
        """
        gradients.add_(vectors, scale, sent)
        payload = self(vectors, sent)
        subtract_(vectors, payload, sent)
        return payload


def subtract_(vectors: Tensor, payload: Payload, sent: Tensor | None = None) -> None:
    """Take what is uploaded out of `vectors` [W, d]: what remains is not transmitted."""
    values = payload.uploaded(sent)
    if payload.indices is None:
        vectors.sub_(values)
    else:
        vectors.scatter_add_(1, payload.indices, -values)


class Identity(Compressor):
    """Everything, as it is."""

    returns_input = True
    no_memory = "identity transmits everything, so an error memory stays empty; use NoFeedback"

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        return Payload(vectors)


class Sparsifier(Compressor):
    """Some entries of each segment, as they are.

    Options
    -------
    density: K / n in (0, 1]; K = max(1, floor(density * n)) of each segment's n entries. Larger sends more.
    scope: the segments are the parameter "tensor"s (published code), or the one whole "vector" (the formulas).
    """

    def __init__(self, density: float, scope: Scope = "tensor"):
        check_density("density", density)
        self.density = density
        self.scope = scope

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._sizes = segment_sizes(workspace, self.scope)
        self._keep(self.density)

    def _keep(self, density: float) -> None:
        # the tolerance keeps e.g. 0.29 * 100 = 28.999999999999996 from losing an entry
        self._keep_of(tuple(Segment(n, max(1, floor(density * n + 1e-9))) for n in self._sizes))

    def _keep_of(self, segments: tuple[Segment, ...]) -> None:
        self.segments = segments
        self.num_kept = sum(segment.kept for segment in segments)
        self._select = TopKSelector(segments)


def check_density(name: str, density: float) -> None:
    """UserError unless it is in (0, 1]."""
    if not 0 < density <= 1:
        raise UserError(f"{name}={density}: must be in (0, 1]")


class TopK(Sparsifier):
    """The entries of largest magnitude, ties to the lowest index. Options: as of `Sparsifier`."""

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        return Payload(*self._select(vectors, sent), self.segments, in_range=True)

    def take_(self, vectors: Tensor, sent: Tensor | None, gradients: Gradients, scale: Tensor) -> Payload:
        return Payload(*self._select.take_(vectors, sent, gradients, scale), self.segments, in_range=True)


class WarmupTopK(TopK):
    """`TopK` that sends more in the first epochs (DGC; Lin et al. 2018, arXiv 1712.01887, section 3.3).

    Options
    -------
    density, scope: as of `Sparsifier`; the density after the warm-up.
    warmup: the densities of the first epochs, one each.
    """

    no_latest = "uploads shrink during the warm-up, and a latest one would be of another length; use kind=top_k"

    def __init__(self, density: float, warmup: tuple[float, ...], scope: Scope = "tensor"):
        super().__init__(density, scope)
        for epoch, each in enumerate(warmup):
            check_density(f"warmup[{epoch}]", each)
        self.warmup = warmup

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        density = self.warmup[epoch] if epoch < len(self.warmup) else self.density
        if self.phase != (phase := f"density {density}"):
            self.phase = phase
            self._keep(density)
