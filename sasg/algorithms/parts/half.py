"""Gradients in 16 bits."""

from typing import Literal

import torch
from torch import Tensor

from sasg.algorithms.parts.compressors import Compressor
from sasg.cluster import Payload
from sasg.cluster.accounting.value_codes import HalfCode


class HalfPrecision(Compressor):
    """Every entry, rounded to 16 bits. What is too large for float16 (65,504) becomes infinite, as in any such cast.

    Options
    -------
    dtype: "float16" (11 significant bits, from about 6e-8) or "bfloat16" (8, the range of single precision).
    """

    def __init__(self, dtype: Literal["float16", "bfloat16"]):
        self.code = HalfCode(getattr(torch, dtype))

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        return Payload(vectors.to(self.code.dtype).to(vectors.dtype), code=self.code)
