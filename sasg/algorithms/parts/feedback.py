"""What does a worker remember of what it did not transmit?"""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.algorithms.parts.compressors import Compressor
from sasg.cluster import Payload
from sasg.gradients import Gradients


class Feedback(Part):
    """Turns gradients into the payloads of step-size-scaled vectors.

    rate: of an estimate that worker and server keep alike, if they do: the aggregation has the same.
    needs_positions: whether it has no meaning for uploads without indices.
    """

    rate: float | None = None
    needs_positions: ClassVar[bool] = False

    def write_to(self, lent: Tensor) -> None:
        """Told after set-up, if the server lends memory [W, d] to dense uploads; rows that do not send must stay."""

    @abstractmethod
    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        """Payloads for `gradients` and the scalar `step_size`; those of workers that do not send are ignored."""


class NoFeedback(Feedback):
    """What is not transmitted is lost: the payload is that of gamma * g."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._scaled = workspace.zeros(workspace.num_held, workspace.num_parameters)

    def write_to(self, lent: Tensor) -> None:
        self._scaled = lent

    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        gradients.write_(self._scaled, step_size, sent)
        return compressor(self._scaled, sent)


class ErrorMemory(Feedback):
    """What is not transmitted is added the next time: v = gamma g + e, S = C(v), e = v - S.

    A worker that does not send keeps its memory untouched.
    """

    memory: Tensor  # e_m, [W, d]

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.register_state("memory", workspace.zeros(workspace.num_held, workspace.num_parameters), "worker")

    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        return compressor.take_(self.memory, sent, gradients, step_size)  # the memory becomes v in place, then e
