"""An error memory of momenta: DGC (Lin, Han, Mao, Wang, Dally 2018, arXiv 1712.01887)."""

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.feedback import Feedback
from sasg.cluster import Payload
from sasg.errors import UserError
from sasg.gradients import Gradients


class MomentumMemory(Feedback):
    """u = momentum u + weight gamma g, v = v + u in every iteration; the payload is that of v.

    Where it is sent, u = v = 0, as at first. A worker that does not send goes on adding.

    Options
    -------
    momentum: in [0, 1); larger remembers longer. 0 is an error memory.
    weight: 1 - momentum makes the steps of a constant gradient those of SGD; 1 is DGC's formula.
    """

    needs_positions = True

    def __init__(self, momentum: float = 0.9, weight: float = 1.0):
        if not 0 <= momentum < 1:
            raise UserError(f"momentum={momentum}: must be in [0, 1)")
        if not weight > 0:
            raise UserError(f"weight={weight}: must be positive")
        self.decay, self.weight = momentum, weight

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        shape = (workspace.num_held, workspace.num_parameters)
        self.velocity = self.register_state("velocity", workspace.zeros(*shape), "worker")  # u
        self.memory = self.register_state("memory", workspace.zeros(*shape), "worker")  # v

    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        gradients.add_(self.velocity.mul_(self.decay), step_size * self.weight, None)
        payload = compressor(self.memory.add_(self.velocity), sent)
        _clear(self.velocity, payload.indices, sent)
        _clear(self.memory, payload.indices, sent)
        return payload


def _clear(vectors: Tensor, indices: Tensor, sent: Tensor | None) -> None:
    """Zero at `indices` [W, k], in the rows that send."""
    kept = 0 if sent is None else torch.where(sent.unsqueeze(1), 0, vectors.gather(1, indices))
    vectors.scatter_(1, indices, kept)
