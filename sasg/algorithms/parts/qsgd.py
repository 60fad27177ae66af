"""QSGD's quantiser (Alistarh, Grubic, Li, Tomioka, Vojnovic 2017; arXiv 1610.02132, section 3.1)."""

import torch
from torch import Tensor

from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.draws import Draws
from sasg.algorithms.parts.quantisers import Quantiser
from sasg.cluster import Payload
from sasg.cluster.accounting.value_codes import IntegerLevelCode
from sasg.errors import UserError
from sasg.kernels.rows import of_each


class RandomRounding(Quantiser):
    """v_i -> ||v|| sign(v_i) l_i / s, where l_i is s |v_i| / ||v|| rounded at random to a whole number, without bias.

    Options
    -------
    num_levels: s >= 1; larger is more exact, and takes 1 + ceil(log2(s + 1)) bits for each entry.
    bucket_size: so many entries in a row have a norm ||v|| of their own; all of them one where it is null. Smaller is
        more exact, and sends more norms.
    """

    def __init__(self, num_levels: int, bucket_size: int | None = None):
        if num_levels < 1:
            raise UserError(f"num_levels={num_levels}: must be at least 1")
        if bucket_size is not None and bucket_size < 1:
            raise UserError(f"bucket_size={bucket_size}: must be at least 1")
        self.code = IntegerLevelCode(num_levels, bucket_size)
        self.draws = Draws()

    def __call__(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Quantised `vectors` [W, d] and their Euclidean norms [W, number of buckets]; zeros stay zeros."""
        norms = of_each(vectors, self._norms)
        of_entries = self.code.spread(norms, vectors.shape[1])
        rounded = torch.empty_like(vectors)
        for part, draws in self.draws.in_pieces(vectors.shape[1]):
            rounded[:, part] = self._rounded(vectors[:, part], of_entries[:, part], draws)
        return rounded, norms

    def _rounded(self, vectors: Tensor, norms: Tensor, draws: Tensor) -> Tensor:
        """norms: of each entry."""
        levels = vectors.abs() * (self.code.num_levels / norms.clamp(min=torch.finfo(norms.dtype).tiny))
        levels = levels.add_(draws).floor_().clamp_(max=self.code.num_levels)
        return self.code.dequantise(torch.where(vectors == 0, 0, levels) * vectors.sign(), norms)

    def _norms(self, rows: Tensor) -> Tensor:
        size = self.code.bucket_size
        if size is None:
            return rows.norm(dim=1, keepdim=True)
        whole = torch.nn.functional.pad(rows, (0, -rows.shape[1] % size))
        return whole.view(len(rows), -1, size).norm(dim=2)


class QSGD(Compressor):
    """Every entry of the whole vector, quantised, and the norms. Options: see `RandomRounding`."""

    def __init__(self, num_levels: int, bucket_size: int | None = None):
        self.quantise = RandomRounding(num_levels, bucket_size)

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        values, norms = self.quantise(vectors)
        return Payload(values, code=self.quantise.code, side=norms)
