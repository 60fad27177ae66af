"""Methods that break one promise each, for the checks to find."""

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.methods.composed import Composed
from sasg.algorithms.parts.compressors import Compressor, Identity
from sasg.algorithms.parts.qsgd import QSGD
from sasg.algorithms.parts.triggers import Always
from sasg.cluster import IntegerLevelCode, Payload


class GlobalRandom(Compressor):
    """Draws from torch's generator: no run is repeated."""

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        return Payload(vectors * torch.rand(1, dtype=vectors.dtype))


class HiddenState(Compressor):
    """Depends on a counter that no checkpoint holds."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.count = 0

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        self.count += 1
        return Payload(vectors * (1 + self.count % 7))


class ByRow(Compressor):
    """Weighs a worker by its row in this process, not by its number."""

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        return Payload(vectors * (1 + torch.arange(len(vectors), dtype=vectors.dtype)).unsqueeze(1))


class OwnMean(Always):
    """Calls a mean over the workers held here shared."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.mean = self.register_state("mean", workspace.zeros(), "shared")

    def __call__(self, gradients, parameters: Tensor, oracle) -> None:
        self.mean.copy_(gradients.dense().mean())


class NotOfAll(Identity):
    """Keeps a tensor per worker as shared state, so that it cannot move to other processes."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        kept = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self.kept = self.register_state("kept", kept, "shared")

    def __call__(self, vectors: Tensor, sent: Tensor | None) -> Payload:
        self.kept.copy_(vectors)
        return super().__call__(vectors, sent)


class WideCode(IntegerLevelCode):
    """Sends a byte for each value and counts four bits."""

    def num_bytes(self, n: int) -> int:
        return n

    def encode(self, values: Tensor, side: Tensor) -> Tensor:
        return self._numbers(values, side).to(torch.uint8)

    def decode(self, data: Tensor, n: int, side: Tensor, dtype: torch.dtype) -> Tensor:
        return self._values(data.long(), side).to(dtype)


class Wide(QSGD):
    def __init__(self):
        super().__init__(7)
        self.quantise.code = WideCode(7)


class Secretive(Composed):
    """Says that worker 1 never uploads; it does."""

    def step(self, oracle, parameters: Tensor) -> None:
        super().step(oracle, parameters)
        sent = torch.ones(len(self.cluster.workers), dtype=torch.bool) if self.sent is None else self.sent
        self.sent = sent & (torch.tensor(self.cluster.workers) != 1)
