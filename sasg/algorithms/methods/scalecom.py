"""ScaleCom: in turn, one worker's largest entries say which ones everybody uploads."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.compressors import TopK
from sasg.algorithms.parts.segments import Scope
from sasg.cluster import Payload, Positions, Uploads, Values, sum_of_values
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import add_rows_


class ScaleCom(Algorithm):
    """CLT-k, the cyclic local top-k (Chen et al. 2020, arXiv 2104.11125).

    With e_m = 0 at first, in iteration k:

        v_m = g_m + e_m
        Exchange: worker k mod M uploads the positions of the largest entries of its v_m; the server tells everyone
        Exchange: everyone uploads S_m, its v_m at these positions, without indices
        e_m = (1 - b) e_m + b (v_m - S_m);  w <- w - M gamma (1/M) sum_m S_m

    Everybody knows whose turn it is, but a flag in front of the first exchange says it again: one bit per worker and
    iteration.

    Options
    -------
    density, scope: of the positions, as of `TopK`.
    rate: b in (0, 1]; 1 is the plain error memory. Lower follows what is not sent more slowly, and keeps only
        a part of it, which the paper wants where step sizes are large (0.1).
    """

    extra_columns = ("vote_bits",)

    def __init__(self, density: float, scope: Scope = "vector", rate: float = 1.0):
        if not 0 < rate <= 1:
            raise UserError(f"rate={rate}: must be in (0, 1]")
        self.rate = rate
        self.top_k = TopK(density, scope)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()  # gamma
        shape = (workspace.num_held, workspace.num_parameters)
        self.memory = self.register_state("memory", workspace.zeros(*shape), "worker")  # e_m
        self.iteration = self.register_state("iteration", workspace.zeros(dtype=torch.int64), "shared")
        self._vectors = torch.zeros_like(self.memory)  # v_m
        self._workers = torch.tensor(self.cluster.workers, device=workspace.device)
        self._update = workspace.zeros(workspace.num_parameters)
        self._positions = Positions(self.top_k.num_kept, workspace.num_parameters)
        self._values = Values(self.top_k.num_kept)
        self._one = workspace.zeros() + 1

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch))

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        oracle(parameters).add_(self._vectors.copy_(self.memory), self._one, None)
        leads = self._workers == self.iteration % self.cluster.num_workers
        self.iteration.add_(1)
        chosen = self.top_k(self._vectors, leads)
        vote = Payload(None, chosen.indices, chosen.segments, in_range=True)
        positions = self.cluster.exchange(vote, leads, self._told, self._positions).clone()
        total = self.cluster.exchange(self._uploads(positions), None, sum_of_values, self._values)
        self.apply_(parameters, self._update.zero_().index_copy_(0, positions, total * self.step_size))

    def _told(self, arriving: Iterable[Uploads]) -> Tensor:
        """The positions of the one that leads."""
        found = []
        for uploads in arriving:
            rows = uploads.payload.indices
            if uploads.sent is not None:
                rows = torch.where(uploads.sent.unsqueeze(1), rows, 0)
            found.append(rows.sum(0))
        return torch.stack(found).sum(0)

    def _uploads(self, positions: Tensor) -> Payload:
        """S_m; the memory takes in what remains of v_m."""
        values = self._vectors.index_select(1, positions)
        self._vectors.index_fill_(1, positions, 0)
        self.memory.mul_(1 - self.rate)
        add_rows_(self.memory, self._vectors, self.rate)
        return Payload(values, positions.expand(len(values), -1), self.top_k.segments, known_support=True)
