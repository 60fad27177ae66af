"""Workers that upload what is wrong with an estimate of their gradient, which the server keeps too: EF21, DIANA."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.aggregation import Aggregation
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.feedback import Feedback
from sasg.cluster import Payload, Uploads
from sasg.errors import UserError
from sasg.gradients import Gradients
from sasg.kernels.rows import add_rows_


class GradientEstimate(Feedback):
    """c_m = C(v_m - h_m), h_m += rate c_m, with h_m = 0 at first; belongs to `SumOfEstimates` of the same rate.

    A worker that does not send keeps h_m. With rate 1 and a contractive C it is EF21 (Richtárik, Sokolov, Fatkhullin
    2021, arXiv 2106.05203), whose first upload then is C(g); with an unbiased C, E ||C(x) - x||^2 <= omega ||x||^2,
    and a rate of 1 / (1 + omega) it is DIANA (Mishchenko, Gorbunov, Takáč, Richtárik 2019, arXiv 1901.09269).

    Options
    -------
    rate: in (0, 1]; how fast h_m follows the gradient.
    weight: a in (0, 1]; v_m = (1 - a) v_m + a g_m in every iteration, v_m = g_m in the first. Below 1 it is EF21-SGDM
        (Fatkhullin, Tyurin, Richtárik 2023, arXiv 2305.15155).
    """

    def __init__(self, rate: float = 1.0, weight: float = 1.0):
        for name, value in (("rate", rate), ("weight", weight)):
            if not 0 < value <= 1:
                raise UserError(f"{name}={value}: must be in (0, 1]")
        self.rate, self.weight = rate, weight

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        shape = (workspace.num_held, workspace.num_parameters)
        self.estimate = self.register_state("estimate", workspace.zeros(*shape), "worker")  # h_m
        self._difference = torch.zeros_like(self.estimate)
        if self.weight < 1:
            self.average = self.register_state("average", workspace.zeros(*shape), "worker")  # v_m
            is_first = torch.ones((), dtype=torch.bool, device=workspace.device)
            self.is_first = self.register_state("is_first", is_first, "shared")
            self._one = workspace.zeros() + 1

    def __call__(self, gradients: Gradients, step_size: Tensor, compressor: Compressor, sent: Tensor | None) -> Payload:
        if self.weight == 1:
            gradients.write_(self._difference, step_size, sent)
            self._difference.sub_(self.estimate)
        else:
            weight = torch.where(self.is_first, self._one, self.weight)
            gradients.add_(self.average.mul_(1 - weight), weight, None)
            self.is_first.fill_(False)
            torch.sub(self.average * step_size, self.estimate, out=self._difference)
        payload = compressor(self._difference, sent)
        add_uploaded_(self.estimate, payload, sent, self.rate)
        return payload


def add_uploaded_(target: Tensor, payload: Payload, sent: Tensor | None, rate: float = 1.0) -> None:
    """target[m] += rate * what worker m uploads, [W, d]."""
    values = payload.uploaded(sent)
    if payload.indices is None:
        add_rows_(target, values, rate)
    else:
        target.scatter_add_(1, payload.indices, values * rate)


class SumOfEstimates(Aggregation):
    """H + sum_m c_m, with H = sum_m h_m at the server: H += rate sum_m c_m, H = 0 at first.

    Options
    -------
    rate: that of `GradientEstimate`.
    """

    def __init__(self, rate: float = 1.0):
        self.rate = rate

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        if workspace.cluster.is_server:
            self.total = self.register_state("total", workspace.zeros(workspace.num_parameters), "server")  # H

    def __call__(self, arriving: Iterable[Uploads]) -> Tensor:
        added = None
        for uploads in arriving:
            payload = uploads.payload
            added = self._add(added, payload.uploaded(uploads.sent), payload.indices)
        if added is None:  # nobody sent
            return self.total.clone()
        corrected = self.total + added
        self.total.add_(added, alpha=self.rate)
        return corrected
