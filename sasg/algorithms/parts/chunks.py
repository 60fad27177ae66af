"""The largest entries of every chunk of so many in a row."""

from sasg.algorithms.parts.compressors import TopK
from sasg.algorithms.parts.segments import Scope
from sasg.cluster import Segment
from sasg.errors import UserError


class ChunkedTopK(TopK):
    """The `kept` entries of largest magnitude of each chunk, ties to the lowest index.

    Options
    -------
    kept: >= 1; a shorter chunk, at a segment's end, keeps as many, or all that it has.
    chunk: >= kept, the consecutive entries that compete. A position within 4,096 takes 12 bits.
    scope: chunks are cut from the parameter "tensor"s, or from the one whole "vector".
    """

    def __init__(self, kept: int = 64, chunk: int = 4096, scope: Scope = "tensor"):
        if kept < 1:
            raise UserError(f"kept={kept}: must be at least 1")
        if chunk < kept:
            raise UserError(f"chunk={chunk}: must be at least kept={kept}")
        super().__init__(kept / chunk, scope)
        self.kept, self.chunk = kept, chunk

    def _keep(self, density: float) -> None:
        sizes = [min(self.chunk, n - start) for n in self._sizes for start in range(0, n, self.chunk)]
        self._keep_of(tuple(Segment(size, min(self.kept, size)) for size in sizes))
