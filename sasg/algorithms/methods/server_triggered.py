"""LASG-PS and LASG-PSE: the server decides who uploads, and the others have nothing to do.

Source: Chen, Sun, Yin 2021, arXiv 2002.11360.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.aggregation import SumOfLatest
from sasg.algorithms.parts.lasg import AuthorsThreshold
from sasg.algorithms.parts.triggers import PastIterates
from sasg.cluster import Nothing, Payload, Uploads
from sasg.errors import UserError
from sasg.gradients import Gradients, Oracle
from sasg.kernels.rows import aligned, copy_rows_, squared_distances


class Drift(AuthorsThreshold, PastIterates):
    """L_m^2 || w^k - w^(k_m) ||^2 of all M workers, at the server: how far it has gone since a worker uploaded."""

    scope_of_rows = scope_of_common = "server"

    def _num_rows(self, workspace: Workspace) -> int:
        return workspace.cluster.num_workers

    def setup(self, workspace: Workspace) -> None:
        self.is_server = workspace.cluster.is_server
        if self.is_server:
            super().setup(workspace)
            self.smoothness = self.register_state("smoothness", workspace.zeros(self.num_workers), "server")  # L_m

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        if self.is_server:
            super().begin_epoch(epoch, schedule)

    def __call__(self, parameters: Tensor) -> Tensor:
        """Who is to upload, [M]."""
        return self.decide(self.smoothness.square() * self._squared_distances(parameters), parameters)

    def _squared_distances(self, parameters: Tensor) -> Tensor:
        """|| w - w^(k_m) ||^2, [M]."""
        if parameters.is_cuda:
            return squared_distances(self.compared, parameters)
        needed = torch.zeros(len(self.past), dtype=torch.bool).index_fill_(0, self.comparison, True)
        return squared_distances(self.past, parameters, needed)[self.comparison]  # workers share iterates


class ServerTriggered(Algorithm):
    """The server asks worker m for an upload iff L_m^2 || w^k - w^(k_m) ||^2 exceeds the threshold of LASG.

    A worker that is asked gets w^k and uploads gamma g_m(w^k); one that is not neither downloads nor computes. The
    server applies the sum of everyone's latest upload. Only the server knows what it compares: there are no differences
    in the metrics.

    Options
    -------
    smoothness: L_m, of each worker or the same for all (PS); or null (PSE): estimated by each worker that is asked,
        L_m = max(L_m, || g_m(w^k; xi) - g_m(w^(k_m); xi) || / || w^k - w^(k_m) ||), and uploaded as a side scalar.
        Everyone is asked in the first two iterations, as the second makes the first estimate. Larger uploads more.
    max_delay, window, scale: as for LASG's other rules.
    """

    parameters_at_server = True

    def __init__(
        self, smoothness: tuple[float, ...] | float | None, max_delay: int = 50, window: int = 10, scale: float = 1.0
    ):
        self.given_smoothness = smoothness if smoothness is None else torch.tensor(smoothness, dtype=torch.float64)
        if smoothness is not None and not bool((self.given_smoothness >= 0).all()):
            raise UserError(f"smoothness={smoothness}: must not be negative")
        self.estimates = smoothness is None
        self.rule = Drift(max_delay, window, scale)
        if self.estimates:
            self.rule.num_first = 2
            self.extra_columns = ("side_bits",)
        self.aggregation = SumOfLatest()

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        if self.given_smoothness is not None and self.given_smoothness.shape not in ((), (self.cluster.num_workers,)):
            raise UserError(
                f"algorithm.smoothness: {len(self.given_smoothness)} values for {self.cluster.num_workers} workers"
            )
        self.step_size = workspace.zeros()
        self.iteration = self.register_state("iteration", workspace.zeros(dtype=torch.int64), "shared")
        lent = self.aggregation.expect(None)
        own = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self._scaled = own if lent is None else lent  # gamma g_m
        if self.estimates:
            self.downloaded = self.register_state("downloaded", aligned(torch.zeros_like(own)), "worker")  # w^(k_m)
        elif self.cluster.is_server:
            self.rule.smoothness.copy_(self.given_smoothness)

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch))

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        asked = self.rule(parameters) if self.cluster.is_server else None
        self.sent = self.cluster.request(asked, parameters)
        gradients = oracle.of(parameters, self.sent)
        gradients.write_(self._scaled, self.step_size, self.sent)
        side = self._estimate(gradients, oracle, parameters) if self.estimates else None
        payload = Payload(self._scaled, side=side)

        def server(arriving: Iterable[Uploads]) -> None:
            self.rule.observe(self.apply_(parameters, self.aggregation(self._noted(arriving))))

        self.cluster.exchange(payload, self.sent, server, Nothing())
        self.iteration.add_(1)

    def _estimate(self, gradients: Gradients, oracle: Oracle, parameters: Tensor) -> Tensor:
        """|| g_m(w^k) - g_m(w^(k_m)) || / || w^k - w^(k_m) || for those who are asked, [W, 1]; w^k becomes w^(k_m)."""
        change = gradients.squared_distance(oracle.of(self.downloaded, self.sent))
        distance = squared_distances(self.downloaded, parameters, self.sent)
        known = (self.iteration > 0) & (distance > 0)
        copy_rows_(self.downloaded, parameters, self.sent)
        return torch.where(known, (change / distance).sqrt(), 0).unsqueeze(1)

    def _noted(self, arriving: Iterable[Uploads]) -> Iterator[Uploads]:
        """The uploads as they arrive, after the server has noted the estimates that came with them."""
        for uploads in arriving:
            if self.estimates:
                own = self.rule.smoothness[uploads.workers]
                copy_rows_(own, torch.maximum(own, uploads.payload.side.squeeze(1)), uploads.sent)
            yield uploads
