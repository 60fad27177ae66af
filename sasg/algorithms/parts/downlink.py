"""What the server sends, compressed."""

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Schedule, Workspace
from sasg.algorithms.parts.compressors import Compressor, subtract_
from sasg.algorithms.parts.draws import Stream
from sasg.cluster import Compressed, Payload
from sasg.errors import UserError


class Downlink(Part):
    """The update u [d] that all workers get, with an error memory at the server: d = u + e, C(d) is sent, e = d - C(d).

    With compressors at both ends it is DoubleSqueeze (Tang, Yu, Lian, Zhang, Liu 2019, arXiv 1905.05957).
    UserError: the compressor leaves nothing to remember, or draws random numbers, which the workers have for theirs.
    """

    reply: Compressed
    """How an update goes to the workers in this epoch."""

    def __init__(self, compressor: Compressor):
        if compressor.no_memory:
            raise UserError(f"algorithm.downlink: {compressor.no_memory}")
        if any(isinstance(part, Stream) for _, part in compressor.descendants()):
            raise UserError(f"algorithm.downlink: {type(compressor).__name__} draws random numbers; choose top_k, say")
        self.compressor = compressor

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._zeros = workspace.zeros(1, workspace.num_parameters)
        if workspace.cluster.is_server:
            self.memory = self.register_state("memory", torch.zeros_like(self._zeros), "server")  # e

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.reply = Compressed(self.compressor(self._zeros, None))

    def __call__(self, update: Tensor) -> Payload:
        """What is sent of it; at the server alone."""
        payload = self.compressor(self.memory.add_(update), None)
        subtract_(self.memory, payload)
        return payload
