"""LAQ's quantiser (Sun, Chen, Giannakis, Yang 2019, arXiv 1909.07588, section 2.1)."""

from torch import Tensor

from sasg.algorithms.parts.compressors import Compressor
from sasg.cluster import Payload
from sasg.cluster.accounting.value_codes import UniformGridCode
from sasg.errors import UserError


class UniformGrid(Compressor):
    """Every entry, rounded to the nearest of 2^b levels at equal distances from -R to R, R = ||v||_inf; and R.

    With t = 1 / (2^b - 1) the level is l = floor((v + R) / (2 t R) + 1/2), the value 2 t R l - R. No value is zero.

    Options
    -------
    num_bits: b in 1..16; larger is more exact.
    """

    extra_columns = ("side_bits",)

    def __init__(self, num_bits: int):
        if not 1 <= num_bits <= 16:
            raise UserError(f"num_bits={num_bits}: must be in 1..16")
        self.code = UniformGridCode(num_bits)

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        radius = vectors.abs().amax(1, keepdim=True)
        return Payload(self.code.dequantise(self.code.level_of(vectors, radius), radius), code=self.code, side=radius)
