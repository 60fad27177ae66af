"""Local SGD: workers train on their own and average their models now and then."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.aggregation import SumOfUploads
from sasg.algorithms.parts.optimisers import ServerOptimiser
from sasg.cluster import Payload, Uploads
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import aligned
from sasg.parts import build


class LocalSGD(Algorithm):
    """H SGD steps at each worker from the common w, then the mean of the models (Stich 2019, arXiv 1805.09767).

    Worker m: w_m <- w_m - gamma' g_m(w_m; xi), H times, each on a fresh mini-batch; it uploads w - w_m, dense.
    Server:   w <- w - (1/M) sum_m (w - w_m).

    gamma' = M gamma, the step size of a server that averages, so that H = 1 is SGD. One round per worker and H steps.

    Options
    -------
    local_steps: H >= 1; larger uploads less often, and lets the models drift further apart.
    optimiser: a `ServerOptimiser`, which gets G = (1/M) sum_m (w - w_m) / gamma', and w falls by gamma' times what it
        makes of G. With `Momentum` it is SlowMo (Wang, Tantia, Ballas, Rabbat 2020, arXiv 1910.00643), whose slow
        learning rate is `scale`. None: w falls by gamma' G, the mean of the models.
    """

    def __init__(self, local_steps: int, optimiser: dict | None = None):
        if local_steps < 1:
            raise UserError(f"local_steps={local_steps}: must be at least 1")
        self.local_steps = local_steps
        self.aggregation = SumOfUploads()
        self.optimiser: ServerOptimiser | None = None
        if optimiser is not None:
            self.optimiser = build("algorithm.optimiser", optimiser, ServerOptimiser)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()  # gamma'
        self._moved = workspace.zeros(workspace.num_held, workspace.num_parameters)  # w - w_m
        self._models = aligned(torch.zeros_like(self._moved)) if self.local_steps > 1 else None

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch) * self.cluster.num_workers)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        oracle(parameters).write_(self._moved, self.step_size, None)
        for _ in range(self.local_steps - 1):
            oracle.advance()
            torch.sub(parameters, self._moved, out=self._models)
            oracle(self._models).add_(self._moved, self.step_size, None)
        self.apply_(parameters, self.cluster.exchange(self._payload(), None, self._server))

    def _payload(self) -> Payload:
        """What is uploaded of w - w_m."""
        return Payload(self._moved)

    def _server(self, arriving: Iterable[Uploads]) -> Tensor:
        mean = self.aggregation(arriving).div_(self.cluster.num_workers)
        if self.optimiser is None:
            return mean
        return self.optimiser(mean.div_(self.step_size)).mul_(self.step_size * self.optimiser.scale)
