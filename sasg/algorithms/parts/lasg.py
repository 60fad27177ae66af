"""The triggers of LASG (Chen, Sun, Yin 2021, arXiv 2002.11360) and LAG (Chen et al. 2018, arXiv 1805.09965).

All compare with (1 / (S gamma'^2)) times the sum of the last S squared differences of w, where gamma' = M gamma is the
step size of a server that averages. LAG's xi / (alpha^2 M^2) with xi = 0.1, D = 10 is the same number.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Schedule, Workspace
from sasg.algorithms.parts.triggers import FOREVER, GradientChange, LazyTrigger, UpdateThreshold
from sasg.errors import UserError
from sasg.gradients import Gradients, Oracle
from sasg.kernels.rows import copy_rows_, squared_distances


class AuthorsThreshold(UpdateThreshold):
    """The weight that LASG and LAG share, and their forced uploads.

    Options
    -------
    max_delay: a worker uploads at least once in so many iterations.
    window: S >= 1, the differences of w that are averaged; 10 in both papers.
    scale: multiplies the threshold; larger skips more.
    """

    def __init__(self, max_delay: int = 50, window: int = 10, scale: float = 1.0):
        if max_delay < 1:
            raise UserError(f"max_delay={max_delay}: must be at least 1")
        if window < 1:
            raise UserError(f"window={window}: must be at least 1")
        if not scale >= 0:
            raise UserError(f"scale={scale}: must not be negative")
        super().__init__(num_differences=window, longest_silence=max_delay - 1)
        self.max_delay = max_delay
        self.scale = scale

    def _weight(self, epoch: int, schedule: Schedule) -> float:
        return self.scale / self.num_differences / (self.num_workers * schedule(epoch)) ** 2


class WK2(AuthorsThreshold, GradientChange):
    """|| g_m(w^k; xi) - g_m(w^(k_m); xi) ||^2: SASG's rule (6) with LASG's constants."""


class UploadedVectors(LazyTrigger):
    """Rules on || v_m^k - v_m^(k_m) ||^2: how a vector of the worker changed since it last uploaded."""

    @abstractmethod
    def _write(self, vectors: Tensor, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> None:
        """Overwrite `vectors` [W, d] by v_m^k."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        uploaded = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self.uploaded = self.register_state("uploaded", uploaded, "worker")  # v_m^(k_m)
        self._vectors = torch.zeros_like(self.uploaded)
        self._one = workspace.zeros() + 1

    def _difference(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> Tensor:
        self._write(self._vectors, gradients, parameters, oracle)
        return squared_distances(self._vectors, self.uploaded)

    def _remember(self, sent: Tensor, parameters: Tensor) -> None:
        copy_rows_(self.uploaded, self._vectors, sent)


class WK1(AuthorsThreshold, UploadedVectors):
    """v_m^k = g_m(w^k; xi) - g_m(w~; xi), with the snapshot w~ taken by everyone every `max_delay` iterations."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.snapshot = self.register_state("snapshot", workspace.zeros(workspace.num_parameters), "shared")

    def _write(self, vectors: Tensor, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> None:
        due = self.iteration % self.max_delay == 0
        torch.where(due, parameters, self.snapshot, out=self.snapshot)
        gradients.write_(vectors, self._one, None)
        oracle(self.snapshot).add_(vectors, -self._one, None)


class UploadedGradients(UploadedVectors):
    """v_m^k = g_m(w^k): for gradients without noise; that of mini-batches alone exceeds most thresholds."""

    def _write(self, vectors: Tensor, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> None:
        gradients.write_(vectors, self._one, None)


class LAG(AuthorsThreshold, UploadedGradients):
    """How the gradient changed since the last upload, beside the threshold of LASG.

    Options
    -------
    max_delay: as for the others, or None as published: no upload is forced.
    """

    def __init__(self, max_delay: int | None = None, window: int = 10, scale: float = 1.0):
        super().__init__(FOREVER if max_delay is None else max_delay, window, scale)
