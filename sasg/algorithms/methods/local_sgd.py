"""Local SGD: workers train on their own and average their models now and then. DiLoCo is local SGD with optimisers."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.aggregation import Aggregation, SumOfUploads
from sasg.algorithms.parts.optimisers import Optimiser
from sasg.cluster import Payload, Uploads
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import aligned
from sasg.parts import build


class LocalSGD(Algorithm):
    """H SGD steps at each worker from the common w, then the mean of the models (Stich 2019, arXiv 1805.09767).

    Worker m: w_m <- w_m - gamma' g_m(w_m; xi), H times, each on a fresh mini-batch; it uploads w - w_m, dense.
    Server:   w <- w - D,  D = (1/M) sum_m (w - w_m).

    gamma' = M gamma, the step size of a server that averages, so that H = 1 is SGD. One round per worker and H steps.

    Options
    -------
    local_steps: H >= 1; larger uploads less often, and lets the models drift further apart.
    optimiser: an `Optimiser` of the server. With `Momentum` it is SlowMo (Wang, Tantia, Ballas, Rabbat 2020, arXiv
        1910.00643), whose slow learning rate is `scale`. None: w falls by D, to the mean of the models.
    local_optimiser: an `Optimiser` of each worker, which it keeps from one exchange to the next: w_m falls by
        gamma' `scale` times what it makes of g_m. With `Adam` here and Nesterov's `Momentum` at the server it is DiLoCo
        (Douillard et al. 2023, arXiv 2311.08105). None: SGD.
    outer: what the server's optimiser gets: D as a mean "gradient" D / gamma', of which w falls by gamma' `scale` times
        the direction (SlowMo); or the "difference" D itself, of which w falls by `scale` times the direction (DiLoCo).
        They differ where the step size changes.
    """

    def __init__(
        self,
        local_steps: int,
        optimiser: dict | None = None,
        local_optimiser: dict | None = None,
        outer: Literal["gradient", "difference"] = "gradient",
    ):
        if local_steps < 1:
            raise UserError(f"local_steps={local_steps}: must be at least 1")
        self.local_steps, self.outer = local_steps, outer
        self.aggregation: Aggregation = SumOfUploads()
        self.optimiser: Optimiser | None = None
        if optimiser is not None:
            self.optimiser = build("algorithm.optimiser", optimiser, Optimiser)
        self.local_optimiser: Optimiser | None = None
        if local_optimiser is not None:
            self.local_optimiser = build("algorithm.local_optimiser", local_optimiser, Optimiser)
            self.local_optimiser.place = "worker"

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()  # gamma'
        self._moved = workspace.zeros(workspace.num_held, workspace.num_parameters)  # w - w_m
        self._models = aligned(torch.zeros_like(self._moved)) if self.local_steps > 1 else None
        if self.local_optimiser is not None:
            self._gradients = torch.zeros_like(self._moved)
            self._one = workspace.zeros() + 1

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch) * self.cluster.num_workers)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        self._train(oracle, parameters)
        self._exchange(self._payload(), parameters)

    def _exchange(self, payload: Payload, parameters: Tensor) -> Tensor:
        """Upload, and move `parameters` [d] by what the server makes of it; their decrease [d]."""
        update = self.cluster.exchange(payload, self.sent, lambda arriving: self._server(arriving, parameters))
        return self.apply_(parameters, update)

    def _train(self, oracle: Oracle, parameters: Tensor) -> None:
        """H steps of every worker from `parameters` [d]: `_moved` [W, d]."""
        self._step_locally(oracle, parameters, is_first=True)
        for _ in range(self.local_steps - 1):
            oracle.advance()
            torch.sub(parameters, self._moved, out=self._models)
            self._step_locally(oracle, self._models, is_first=False)

    def _step_locally(self, oracle: Oracle, models: Tensor, is_first: bool) -> None:
        """One step from `models` [d] or [W, d], which `_moved` takes in; at first it holds an earlier iteration's."""
        gradients = oracle(models)
        if self.local_optimiser is None:
            take = gradients.write_ if is_first else gradients.add_
            take(self._moved, self.step_size, None)
            return
        gradients.write_(self._gradients, self._one, None)
        step = self.local_optimiser(self._gradients, models).mul_(self.step_size * self.local_optimiser.scale)
        if is_first:
            self._moved.copy_(step)
        else:
            self._moved.add_(step)

    def _payload(self) -> Payload:
        """What is uploaded of w - w_m."""
        return Payload(self._moved)

    def _server(self, arriving: Iterable[Uploads], parameters: Tensor) -> Tensor:
        mean = self.aggregation(arriving).div_(self.cluster.num_workers)
        if self.optimiser is None:
            return mean
        if self.outer == "difference":
            return self.optimiser(mean, parameters).mul_(self.optimiser.scale)
        return self.optimiser(mean.div_(self.step_size), parameters).mul_(self.step_size * self.optimiser.scale)
