"""What does a worker remember of what it did not transmit?"""

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.algorithms.compressors import Compressor
from sasg.cluster import Payload
from sasg.gradients import Gradients


class Feedback(Part):
    """Turns gradients into the payloads of step-size-scaled vectors.

    rate: of an estimate that worker and server keep alike, if they do: the aggregation has the same.
    """

    rate: float | None = None

    @abstractmethod
    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        """Payloads for `gradients` and the scalar `step_size`; those of workers that do not send are ignored."""


class NoFeedback(Feedback):
    """What is not transmitted is lost: the payload is that of gamma * g."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._scaled: Tensor | None = None  # [W, d]

    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        if self._scaled is None:
            self._scaled = torch.zeros_like(gradients.dense())
        gradients.write_(self._scaled, step_size, sent)
        payload = compressor(self._scaled, sent)
        # on the CPU only rows that send were written: the others still hold their last upload
        return replace(payload, lasting=payload.values is self._scaled and not self._scaled.is_cuda)


class ErrorMemory(Feedback):
    """What is not transmitted is added the next time: v = gamma g + e, S = C(v), e = v - S.

    A worker that does not send keeps its memory untouched.
    """

    worker_state = ("memory",)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.memory = workspace.zeros(workspace.num_held, workspace.num_parameters)

    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        return compressor.take_(self.memory, sent, gradients, step_size)  # the memory becomes v in place, then e
