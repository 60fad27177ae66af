"""Momentum at the workers."""

from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.feedback import Feedback
from sasg.cluster import Payload
from sasg.errors import UserError
from sasg.gradients import Gradients


class WorkerMomentum(Feedback):
    """m = momentum * m + (1 - momentum) g in every iteration, m = 0 at first; the payload is that of gamma m.

    Behind a compressor of signs this is Signum (Bernstein et al. 2018, arXiv 1802.04434).

    Options
    -------
    momentum: in [0, 1); larger remembers longer.
    """

    def __init__(self, momentum: float = 0.9):
        if not 0 <= momentum < 1:
            raise UserError(f"momentum={momentum}: must be in [0, 1)")
        self.decay = momentum

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        momentum = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self.momentum = self.register_state("momentum", momentum, "worker")
        self._weight = workspace.zeros() + (1 - self.decay)

    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        gradients.add_(self.momentum.mul_(self.decay), self._weight, None)
        return compressor(self.momentum * step_size, sent)
