"""MARINA (Gorbunov, Burlachenko, Li, Richtárik 2021, arXiv 2102.07845)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.aggregation import SumOfUploads
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.draws import Draws
from sasg.cluster import Nothing, Payload, Uploads
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.parts import build


class Marina(Algorithm):
    """Workers upload their gradient now and then, else what a step has changed in it, compressed.

    One coin for all decides in iteration k, heads with the given probability and in the first iteration:

        heads:  everyone uploads g_m(w^k);                                  G = (1/M) sum_m g_m(w^k)
        tails:  everyone uploads c_m = Q(g_m(w^k) - g_m(w^(k-1)));          G = G + (1/M) sum_m c_m
        w^(k+1) = w^k - M gamma G

    with both gradients on the mini-batch of the iteration. Everybody draws the coin by itself, but a flag in front of
    an upload says which it is: two bits per worker and iteration.

    Options
    -------
    probability: in (0, 1]; larger sends more. 1 / (1 + omega) is the paper's choice.
    compressor: Q, unbiased.
    """

    def __init__(self, probability: float, compressor: dict):
        if not 0 < probability <= 1:
            raise UserError(f"probability={probability}: must be in (0, 1]")
        self.probability = probability
        self.compressor: Compressor = build("algorithm.compressor", compressor, Compressor)
        self.coins = Draws()
        self.sum = SumOfUploads()

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        d = workspace.num_parameters
        self.step_size = workspace.zeros()  # M gamma
        self.previous = self.register_state("previous", workspace.zeros(d), "shared")  # w^(k-1)
        is_first = torch.ones((), dtype=torch.bool, device=workspace.device)
        self.is_first = self.register_state("is_first", is_first, "shared")
        if self.cluster.is_server:
            self.total = self.register_state("total", workspace.zeros(d), "server")  # G
        self._gradients = workspace.zeros(workspace.num_held, d)
        self._changes = torch.zeros_like(self._gradients)
        self._row = workspace.zeros(workspace.num_held, dtype=torch.int64)
        self._one = workspace.zeros() + 1

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch) * self.cluster.num_workers)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        self._heads = (self.coins.shared(1) < self.probability) | self.is_first  # [1]
        heads = self._heads.expand(len(self._row))
        gradients = oracle(parameters)
        gradients.write_(self._gradients, self._one, None)
        self._changes.copy_(self._gradients)
        oracle.at(self.previous.unsqueeze(0), self._row).add_(self._changes, -self._one, None)
        self.cluster.exchange(Payload(self._gradients), heads, self._replace, Nothing())
        estimate = self.cluster.exchange(self.compressor(self._changes, ~heads), ~heads, self._correct)
        self.previous.copy_(parameters)
        self.is_first.fill_(False)
        self.apply_(parameters, estimate * self.step_size)

    def _replace(self, arriving: Iterable[Uploads]) -> None:
        mean = self.sum(arriving).div_(self.cluster.num_workers)
        torch.where(self._heads, mean, self.total, out=self.total)

    def _correct(self, arriving: Iterable[Uploads]) -> Tensor:
        self.total.add_(self.sum(arriving), alpha=1 / self.cluster.num_workers)  # of nothing, after heads
        return self.total
