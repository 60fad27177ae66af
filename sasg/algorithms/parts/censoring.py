"""The trigger of CSGD (Li, Chen, Li, Wu, Ling 2019, arXiv 1909.03631): a threshold that falls by itself."""

from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.lasg import UploadedGradients
from sasg.errors import UserError


class Censoring(UploadedGradients):
    """|| g_m(w^k) - last uploaded g_m ||^2 > t0 r^k, k = 0, 1, ... In the first iteration everyone uploads.

    Options
    -------
    initial: t0 >= 0; larger skips more. 0 uploads wherever the gradient has changed.
    rate: r in (0, 1]; smaller uploads more later on. 1 is a constant threshold.
    """

    def __init__(self, initial: float, rate: float):
        super().__init__()
        if not 0 <= initial < float("inf"):
            raise UserError(f"initial={initial}: must be at least 0")
        if not 0 < rate <= 1:
            raise UserError(f"rate={rate}: must be in (0, 1]")
        self.initial, self.rate = initial, rate

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._dtype = workspace.dtype

    def _threshold(self) -> Tensor:
        return (self.initial * self.rate ** self.iteration.double()).to(self._dtype)
