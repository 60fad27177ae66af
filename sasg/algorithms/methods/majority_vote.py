"""Sparse SGD with majority voting: workers agree on positions before they upload values."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.methods.sgd import SGD
from sasg.algorithms.parts.quantisers import Quantiser
from sasg.algorithms.parts.votes import Vote
from sasg.cluster import Payload, Positions, Segment, Uploads, Values
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import aligned
from sasg.parts import build


class MajorityVote(Algorithm):
    """Sparse SGD with majority voting (Ozfatura, Ozfatura, Gunduz 2020, arXiv 2011.06495).

    Worker m: H SGD steps w_m <- w_m - gamma' g_m(w_m) from w;   D_m = w_m - w + e_m
    Exchange: everyone votes for K = ceil(density * d) entries of its D_m; the server broadcasts a mask of K entries
    Exchange: everyone uploads U_m = Q(D_m on the mask), K values without indices; e_m = D_m - U_m
    Server:   w <- w + (1/M) sum_m U_m; broadcasts these K values.

    gamma' = M gamma is the step size of a server that averages. Where it decays, e_m is scaled by the same factor.

    Options
    -------
    density: K / d in (0, 1]; larger sends more.
    vote: a `Vote`.
    quantiser: a `Quantiser` Q of the uploaded values, or null for plain floats.
    local_steps: H >= 1; an iteration is H mini-batches, with one vote and one upload of values.
    warmup_epochs: first epochs in which all is dense SGD, an exchange for each mini-batch.
    """

    memory: Tensor  # [W, d], e_m; within an iteration D_m

    def __init__(
        self,
        density: float,
        vote: dict,
        quantiser: dict | None = None,
        local_steps: int = 1,
        warmup_epochs: int = 0,
    ):
        if not 0 < density <= 1:
            raise UserError(f"density={density}: must be in (0, 1]")
        if local_steps < 1:
            raise UserError(f"local_steps={local_steps}: must be at least 1")
        if warmup_epochs < 0:
            raise UserError(f"warmup_epochs={warmup_epochs}: must not be negative")
        self.local_steps = local_steps
        self.warmup_epochs = warmup_epochs
        self.vote: Vote = build("algorithm.vote", vote, Vote, density=density)
        self.quantiser: Quantiser | None = quantiser and build("algorithm.quantiser", quantiser, Quantiser)
        self.dense = SGD("mean")

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        size = workspace.num_parameters
        self.register_state("memory", workspace.zeros(workspace.num_held, size), "worker")
        self.negative_step_size = workspace.zeros()  # -gamma'
        self._models = aligned(torch.empty_like(self.memory)) if self.local_steps > 1 else None  # w_m
        self._mask, self._values = Positions(self.vote.num_kept, size), Values(self.vote.num_kept)
        self._segments = (Segment(size, self.vote.num_kept),)

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.phase = "dense" if epoch < self.warmup_epochs else "sparse"
        self.negative_step_size.fill_(-self.cluster.num_workers * schedule(epoch))
        if epoch > 0 and schedule(epoch) < schedule(epoch - 1):
            self.memory.mul_(schedule(epoch) / schedule(epoch - 1))

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        if self.phase == "dense":
            self._dense_steps(oracle, parameters)
            return
        self._local_steps(oracle, parameters)
        mask = self.cluster.exchange(self.vote(self.memory), None, self.vote.elect, reply=self._mask).clone()
        payload = self._uploads(mask)
        update = self.cluster.exchange(payload, None, self._mean, reply=self._values)
        parameters.index_add_(0, mask, update)
        if self._proximal is not None:
            self._proximal(parameters)

    def _dense_steps(self, oracle: Oracle, parameters: Tensor) -> None:
        self.dense.step(oracle, parameters)
        for _ in range(self.local_steps - 1):
            oracle.advance()
            self.dense.step(oracle, parameters)

    def _local_steps(self, oracle: Oracle, parameters: Tensor) -> None:
        """The memory becomes D_m = w_m - w + e_m."""
        gradients = oracle(parameters)
        gradients.add_(self.memory, self.negative_step_size, None)
        for step in range(1, self.local_steps):
            if step == 1:
                self._models.copy_(parameters)
            gradients.add_(self._models, self.negative_step_size, None)
            oracle.advance()
            gradients = oracle(self._models)
            gradients.add_(self.memory, self.negative_step_size, None)

    def _uploads(self, mask: Tensor) -> Payload:
        """U_m on the mask [K]; the memory keeps the rest of D_m."""
        values = self.memory.index_select(1, mask)
        code = side = None
        if self.quantiser is None:
            self.memory.index_fill_(1, mask, 0)
        else:
            exact, (values, side) = values, self.quantiser(values)
            code = self.quantiser.code
            self.memory.index_copy_(1, mask, exact.sub_(values))
        indices = mask.expand(len(values), -1)
        return Payload(values, indices, self._segments, code=code, side=side, known_support=True)

    def _mean(self, arriving: Iterable[Uploads]) -> Tensor:
        total = self.memory.new_zeros(self._values.num)
        for uploads in arriving:
            for row in uploads.payload.values:  # in worker order, on every cluster
                total.add_(row)
        return total.div_(self.cluster.num_workers)
