"""CSER: what is not sent is done by each worker alone, and taken back now and then."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.aggregation import SumOfUploads
from sasg.algorithms.parts.compressors import Compressor, subtract_
from sasg.cluster import Payload, Uploads
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.parts import build


class CSER(Algorithm):
    """SGD with error reset (Xie, Zheng, Koyejo, Gupta, Li, Lin 2020, arXiv 2007.13221).

    Worker m's model is w_m = w + e_m: what all have in common, and what it did alone; e_m = 0 at first.

    H times, on fresh mini-batches: everyone uploads C2(v_m), v_m = gamma' g_m(w + e_m)
        w <- w - (1/M) sum_m C2(v_m);  e_m <- e_m - (v_m - C2(v_m))
    then, the error reset: everyone uploads C1(e_m)
        w <- w + (1/M) sum_m C1(e_m);  e_m <- e_m - C1(e_m)

    gamma' = M gamma. The mean of the models, w + (1/M) sum_m e_m, goes exactly the way of the mean gradients, whatever
    is compressed. What is evaluated is w, which all workers know.

    Options
    -------
    compressor: C2. reset: C1, of what has been left. Both contractive (top-k, random-k, scaled signs).
    local_steps: H >= 1; larger resets less often. An iteration is H mini-batches.
    """

    def __init__(self, compressor: dict, reset: dict, local_steps: int):
        if local_steps < 1:
            raise UserError(f"local_steps={local_steps}: must be at least 1")
        self.local_steps = local_steps
        self.compressor: Compressor = build("algorithm.compressor", compressor, Compressor)
        self.reset: Compressor = build("algorithm.reset", reset, Compressor)
        for name, part in (("compressor", self.compressor), ("reset", self.reset)):
            if part.no_memory:
                raise UserError(f"algorithm.{name}: {part.no_memory}")
        self.sum = SumOfUploads()

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()  # gamma'
        shape = (workspace.num_held, workspace.num_parameters)
        self.memory = self.register_state("memory", workspace.zeros(*shape), "worker")  # e_m
        self._steps = torch.zeros_like(self.memory)  # v_m
        self._models = torch.zeros_like(self.memory)  # w_m

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch) * self.cluster.num_workers)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        for number in range(self.local_steps):
            if number:
                oracle.advance()
            torch.add(self.memory, parameters, out=self._models)
            payload = self.compressor.take_(self._steps.zero_(), None, oracle(self._models), self.step_size)
            self.memory.sub_(self._steps)
            self.apply_(parameters, self._mean_of(payload))
        payload = self.reset(self.memory, None)
        subtract_(self.memory, payload)
        self.apply_(parameters, self._mean_of(payload).neg())

    def _mean_of(self, payload: Payload) -> Tensor:
        return self.cluster.exchange(payload, None, self._mean)

    def _mean(self, arriving: Iterable[Uploads]) -> Tensor:
        return self.sum(arriving).div_(self.cluster.num_workers)
