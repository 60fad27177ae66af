"""A method that no paper has: it uses all that the contract between methods and clusters offers."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Workspace
from sasg.cluster import (
    IntegerLevelCode,
    LevelCode,
    Nothing,
    Payload,
    Positions,
    Segment,
    Uploads,
    Values,
)
from sasg.cluster.accounting.codes import CODES, MORE_CODES
from sasg.gradients import Oracle

COLUMNS = ("side_bits", "vote_bits")
ALL_CODES = (*CODES, *MORE_CODES)


class EveryFeature(Algorithm):
    """The server asks some workers. Those vote for a support, upload quantised values on it, then what is still large
    of the rest: once quantised, once as it is. The parameters are the server's.
    """

    extra_columns = COLUMNS
    parameters_at_server = True

    def __init__(self, num_kept: int = 40, step_size: float = 0.02):
        self.num_kept, self.step_size = num_kept, step_size
        self.level_code = LevelCode(4)
        self.integer_code = IntegerLevelCode(127)

    def setup(self, workspace: Workspace) -> None:
        self.cluster = workspace.cluster
        self.d = workspace.num_parameters
        self.error = self.register_state("error", workspace.zeros(workspace.num_held, self.d), "worker")
        self.applied = self.register_state("applied", workspace.zeros(self.d), "shared")
        self.norms = self.register_state("norms", workspace.zeros(self.cluster.num_workers), "server")
        self.iteration = self.register_state("iteration", workspace.zeros(dtype=torch.int64), "server")

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        asked = self._chosen() if self.cluster.is_server else None
        self.sent = self.cluster.request(asked, parameters)
        vectors = self.error + self.step_size * oracle(parameters).dense()
        mask = self._vote(vectors)
        left = vectors.scatter(1, mask.expand(len(vectors), -1), 0)
        left = left + self._on_support(vectors, mask, parameters)
        large = left.abs() > 3 * left.abs().mean(1, keepdim=True)
        self._quantised(left, large & (torch.arange(self.d) % 2 == 0), parameters)
        survives = large & (torch.arange(self.d) % 2 == 1)
        update = self._exchange(Payload.of_survivors(left, survives), survives.sum(1) % 5 != 0)
        self.applied.add_(update)
        if self.cluster.is_server:
            parameters.sub_(update)
        self.error.copy_(torch.where(self.sent.unsqueeze(1), torch.where(large, 0, left), self.error))

    def _exchange(self, payload: Payload, wish: Tensor, server=None, **options) -> Tensor | None:
        """One exchange, counted by the process that uploads, too."""
        sent = self.sent & wish
        return self.cluster.exchange(payload, sent, server or self._sum, **options)

    def _chosen(self) -> Tensor:
        """The server's trigger: workers whose uploads are large, each in its turn, and at times nobody."""
        turn = (torch.arange(len(self.norms)) + self.iteration) % 4 == 0
        self.iteration.add_(1)
        return ((self.norms > self.norms.mean()) | turn) & (self.iteration % 7 != 0)

    def _vote(self, vectors: Tensor) -> Tensor:
        best = vectors.abs().topk(self.num_kept, dim=1).indices.sort(1).values

        def count(arriving: Iterable[Uploads]) -> Tensor:
            votes = torch.zeros(self.d, dtype=torch.int64)
            for uploads in arriving:
                assert uploads.payload.values is None
                for row in range(len(uploads.payload.indices)):
                    if uploads.sent is None or uploads.sent[row]:
                        votes[uploads.payload.indices[row]] += 1
            return votes.sort(descending=True, stable=True).indices[: self.num_kept].sort().values

        vote = Payload(None, best, (Segment(self.d, self.num_kept),))
        return self._exchange(vote, self.sent, count, reply=Positions(self.num_kept, self.d))

    def _on_support(self, vectors: Tensor, mask: Tensor, parameters: Tensor) -> Tensor:
        """Upload what a quantiser makes of the values on the mask; what it leaves over, [W, d]."""
        values = vectors[:, mask]
        levels = values.abs().amax(1, keepdim=True) * torch.linspace(0, 1, 8, dtype=values.dtype)
        nearest = (values.abs().unsqueeze(2) - levels.unsqueeze(1)).abs().argmin(2)
        quantised = values.sign() * levels.gather(1, nearest)
        indices, segments = mask.expand(len(values), -1), (Segment(self.d, self.num_kept),)
        coded = {"code": self.level_code, "side": levels, "known_support": True}

        def mean(arriving: Iterable[Uploads]) -> Tensor:
            total = torch.zeros(self.num_kept, dtype=values.dtype)
            for uploads in arriving:
                assert torch.equal(uploads.payload.indices[0], mask)
                for row in uploads.payload.uploaded(uploads.sent):
                    total.add_(row)
            parameters[mask] -= total
            return total

        payload = Payload(quantised, indices, segments, **coded)
        total = self._exchange(payload, self.sent, mean, reply=Values(self.num_kept))
        self.applied[mask] += total
        return torch.zeros_like(vectors).index_copy_(1, mask, values - quantised)

    def _quantised(self, vectors: Tensor, survives: Tensor, parameters: Tensor) -> None:
        norms = vectors.abs().amax(1, keepdim=True)
        signed = torch.where(norms > 0, vectors / norms * 127, 0).round()
        made = self.integer_code.dequantise(signed, norms)

        def apply(arriving: Iterable[Uploads]) -> None:
            self.norms.zero_()
            total = torch.zeros_like(parameters)
            for uploads in arriving:
                payload, sent = uploads.payload, uploads.sent
                senders = torch.ones(len(payload.side)) if sent is None else sent
                self.norms[uploads.workers] += payload.side[:, 0] * senders
                for indices, row in zip(payload.indices, payload.uploaded(sent), strict=True):
                    total.index_add_(0, indices, row)
            parameters.sub_(total)

        payload = Payload.of_survivors(made, survives, code=self.integer_code, side=norms)
        self._exchange(payload, survives.any(1), apply, reply=Nothing())

    def _sum(self, arriving: Iterable[Uploads]) -> Tensor:
        total = torch.zeros_like(self.applied)
        for uploads in arriving:
            for indices, row in zip(uploads.payload.indices, uploads.payload.uploaded(uploads.sent), strict=True):
                total.index_add_(0, indices, row)
        return total
