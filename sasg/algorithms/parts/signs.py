"""Signs: with a scale and an error memory (EF-signSGD), or by majority (signSGD, Signum). sign(0) = +1."""

from collections.abc import Iterable

from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.aggregation import SumOfUploads
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.segments import Scope, of_segments, segment_sizes
from sasg.cluster import Coded, Payload, Uploads
from sasg.cluster.accounting.value_codes import ScaledSignCode, SignCode, signed, spread
from sasg.errors import UserError


class ScaledSign(Compressor):
    """(||v||_1 / n) sign(v) of each segment's n entries (Karimireddy, Rebjock, Stich, Jaggi 2019, arXiv 1901.09847).

    With `ErrorMemory` it is EF-signSGD.

    Options
    -------
    scope: the segments are the parameter "tensor"s, or the one whole "vector" (the paper's definition).
    """

    extra_columns = ("side_bits",)

    def __init__(self, scope: Scope = "vector"):
        self.scope = scope

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.sizes = segment_sizes(workspace, self.scope)
        self.code = ScaledSignCode(self.sizes)

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        scales = of_segments(vectors.abs(), self.sizes, lambda rows: rows.mean(1))
        return Payload(signed(vectors < 0, spread(scales, self.sizes)), code=self.code, side=scales)


class Sign(Compressor):
    """sign(v), without a scale: one bit an entry (Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, 1802.04434)."""

    no_memory = "signs without a scale are not of the size of what they are taken of; use kind=scaled_sign"

    def __init__(self) -> None:
        self.code = SignCode()

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        return Payload(signed(vectors < 0, vectors.new_ones(())), code=self.code)


class MajoritySign(SumOfUploads):
    """The sign of the sum of this iteration's uploads, times a step of its own: one bit an entry down as well.

    With the compressor `Sign` it is signSGD with majority vote, behind `WorkerMomentum` Signum (Bernstein, Zhao,
    Azizzadenesheli, Anandkumar 2019, arXiv 1810.05291). The step size multiplies the update, not the uploads.

    Options
    -------
    scale: > 0; an entry of w changes by scale * M gamma, M gamma the step size of a server that averages.
    """

    scaled = "update"

    def __init__(self, scale: float):
        if not scale > 0:
            raise UserError(f"scale={scale}: must be positive")
        self.scale = scale

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.magnitude = workspace.zeros() + self.scale * self.num_workers
        self.reply = Coded(workspace.num_parameters, SignCode(self.scale * self.num_workers))

    def __call__(self, arriving: Iterable[Uploads]) -> Tensor:
        return signed(super().__call__(arriving) < 0, self.magnitude)
