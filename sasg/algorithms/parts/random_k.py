"""Random-k sparsification (Stich, Cordonnier, Jaggi 2018, arXiv 1809.07599; Wangni et al. 2018, arXiv 1710.09854)."""

from torch import Tensor

from sasg.algorithms.parts.compressors import Sparsifier
from sasg.algorithms.parts.draws import Draws
from sasg.algorithms.parts.segments import Scope
from sasg.cluster import Payload


class RandomK(Sparsifier):
    """K entries of each segment that are drawn in every iteration, the same ones for all workers.

    Everybody draws them by itself: no positions are sent.

    Options
    -------
    density, scope: as of `Sparsifier`.
    unbiased: values are multiplied by n / K, so that the mean over draws is the vector; without an error memory.
    """

    def __init__(self, density: float, scope: Scope = "vector", unbiased: bool = False):
        super().__init__(density, scope)
        self.unbiased = unbiased
        if unbiased:
            self.no_memory = "unbiased random-k sends more than it takes; with an error memory use unbiased=false"
        self.draws = Draws()

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        lots = self.draws.shared(vectors.shape[1]).unsqueeze(0)
        indices = self._select(lots, None)[1].repeat(len(vectors), 1)  # of the largest lots
        values = vectors.gather(1, indices)
        if self.unbiased:
            parts = values.split([segment.kept for segment in self.segments], 1)
            for part, segment in zip(parts, self.segments, strict=True):
                part.mul_(segment.size / segment.kept)
        return Payload(values, indices, self.segments, known_support=True, in_range=True)
