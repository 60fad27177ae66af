"""Natural compression (Horváth, Ho, Horváth, Sahu, Canini, Richtárik 2022, arXiv 1905.10988)."""

import torch
from torch import Tensor

from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.draws import Draws
from sasg.cluster import Payload
from sasg.cluster.accounting.value_codes import PowerOfTwoCode

_EXPONENT = {torch.float32: (torch.int32, 0x7F800000), torch.float64: (torch.int64, 0x7FF0000000000000)}
"""By type: whole numbers as wide, and which bits are the exponent's."""


class Natural(Compressor):
    """Magnitudes rounded at random, without bias, to one of the two powers of two around them: 9 bits an entry.

    2^a <= |x| < 2^(a + 1) becomes 2^(a + 1) with probability |x| / 2^a - 1. Below 2^-126, the smallest power, the other
    neighbour is zero. E ||C(x) - x||^2 <= ||x||^2 / 8.
    """

    def __init__(self) -> None:
        self.code = PowerOfTwoCode()
        self.draws = Draws()

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        rounded = torch.empty_like(vectors)
        for part, draws in self.draws.in_pieces(vectors.shape[1]):
            rounded[:, part] = self._rounded(vectors[:, part], draws)
        return Payload(rounded, code=self.code)

    def _rounded(self, vectors: Tensor, draws: Tensor) -> Tensor:
        magnitudes = vectors.abs()
        words, mask = _EXPONENT[vectors.dtype]
        lower = (magnitudes.view(words) & mask).view(vectors.dtype)
        lower = torch.where(lower < self.code.smallest, 0, lower)
        gap = lower.clamp(min=self.code.smallest)  # up to the next power
        rounds_up = draws.mul_(gap) < magnitudes.sub_(lower)
        return torch.where(rounds_up, lower + gap, lower).clamp_(max=self.code.largest).copysign_(vectors)
