"""A sum objective on all shards: its value and gradient, its smoothness constants, its minimum."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sasg.errors import UserError
from sasg.gradients.engines import Engine
from sasg.problem.batches import Batches
from sasg.problem.minimum import minimum
from sasg.problem.objectives import SumObjective


@dataclass(frozen=True)
class Smoothness:
    """Bounds of second derivatives, from the data: of f, of each f_m [M], and of f along each coordinate [d]."""

    total: float
    workers: np.ndarray
    coordinates: np.ndarray


class FullObjective:
    """f = sum_m f_m; every process knows all shards, and works on those of the workers that it holds."""

    def __init__(self, objective: SumObjective, engine: Engine, batches: Batches, everyone: Callable):
        """everyone: () -> x [M, n, d], y [M, n] of all workers. UserError: these are not data or a model for it."""
        x, _ = batches.whole_shards()
        num_features = x[0, 0].numel()
        if engine.layout.shapes != (torch.Size((1, num_features)),):
            raise UserError("objective: needs a model of one weight per feature and no more; use model=linear")
        objective.check_targets(batches.train.labels)
        self.objective, self.engine, self.batches = objective, engine, batches
        self._everyone = everyone

    def columns(
        self, parameters: Tensor, add_shares: Callable[[Tensor], Tensor], share_of_work: tuple[int, int]
    ) -> dict[str, float]:
        """objective f(w), objective_error f(w) - min f if f is convex, gradient_norm (of the least subgradient)."""
        x, y = self.batches.whole_shards()
        gradient = torch.empty_like(parameters)
        loss = self.engine.total(parameters, x, y, gradient, parameters.new_empty(len(x), 0))
        gradient, loss = add_shares(torch.cat([gradient, loss.sum().view(1)])).split((len(gradient), 1))
        num_workers = self.batches.num_workers
        smooth = gradient + num_workers * self.objective.l2 * parameters
        value = float(loss + num_workers * self.objective.penalty(parameters))
        error = {"objective_error": value - self.minimum} if self.objective.is_convex else {}
        steepest = self.objective.steepest(parameters, smooth, num_workers)
        return {"objective": value, **error, "gradient_norm": float(steepest.norm())}

    @cached_property
    def minimum(self) -> float:
        """min f. UserError if f is not convex."""
        x, y = self._everyone()
        return len(x) * minimum(self.objective, x.reshape(-1, x.shape[-1]), y.reshape(-1))

    @cached_property
    def smoothness(self) -> Smoothness:
        """Largest eigenvalues of curvature * X^T X / n + l2 I, of all and by worker, and the diagonal of all."""
        x, _ = self._everyone()
        scale, l2 = self.objective.curvature / x.shape[1], self.objective.l2
        everyone = x.reshape(-1, x.shape[2])
        return Smoothness(
            scale * np.linalg.norm(everyone, 2) ** 2 + len(x) * l2,
            scale * np.linalg.norm(x, 2, axis=(1, 2)) ** 2 + l2,
            scale * np.square(everyone).sum(0) + len(x) * l2,
        )
