"""TernGrad (Wen, Xu, Yan, Wu, Wang, Chen, Li 2017, arXiv 1705.07878)."""

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.draws import Draws
from sasg.algorithms.parts.segments import of_segments, segment_sizes
from sasg.cluster import Payload
from sasg.cluster.accounting.value_codes import IntegerLevelCode, spread
from sasg.errors import UserError


class TernGrad(Compressor):
    """Each entry becomes -s, 0 or s, with s the largest magnitude of its parameter tensor after clipping: 2 bits.

    Entries x of a tensor are clipped at clipping * sigma, sigma the deviation of its entries around their mean; then x
    becomes s sign(x) with probability |x| / s, else 0. Clipping is all the bias there is. A tensor of one entry has no
    deviation and is not clipped.

    Options
    -------
    clipping: > 0, or null: no clipping. Smaller has less variance and more bias.
    """

    extra_columns = ("side_bits",)

    def __init__(self, clipping: float | None = 2.5):
        if clipping is not None and not clipping > 0:
            raise UserError(f"clipping={clipping}: must be positive")
        self.clipping = clipping
        self.draws = Draws()

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.sizes = segment_sizes(workspace, "tensor")
        self.code = IntegerLevelCode(1, sizes=self.sizes)

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        scales = of_segments(vectors, self.sizes, self._scale)
        wide = spread(scales, self.sizes)
        rounded = torch.empty_like(vectors)
        for part, draws in self.draws.in_pieces(vectors.shape[1]):
            entries, scale = vectors[:, part], wide[:, part]
            kept = draws.mul_(scale) < entries.abs()  # always, where it is clipped
            rounded[:, part] = self.code.dequantise(entries.sign().mul_(kept), scale)
        return Payload(rounded, code=self.code, side=scales)

    def _scale(self, rows: Tensor) -> Tensor:
        """Of a tensor's entries [n, size]: the largest magnitude after clipping, [n]."""
        largest = rows.abs().amax(1)
        if self.clipping is None or rows.shape[1] == 1:
            return largest
        return torch.minimum(largest, self.clipping * rows.std(1, correction=0))
