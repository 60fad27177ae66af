"""DeMo: the momenta of workers drift apart; what is exchanged are their strongest cosines."""

from collections.abc import Iterable

from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.cosines import CosineChunks
from sasg.algorithms.parts.top_k import TopKSelector
from sasg.cluster import Coded, Payload, Uploads
from sasg.cluster.accounting.value_codes import SignCode, signed
from sasg.errors import UserError
from sasg.gradients import Oracle


class DeMo(Algorithm):
    """Decoupled momentum optimisation (Peng, Quesnelle, Kingma 2024, arXiv 2411.19870), with signs.

    With delta_m = 0 at first, lr = scale M gamma, and DCT the cosine transform of each chunk (see `CosineChunks`):

        delta_m <- decay delta_m + lr g_m
        Exchange: everyone uploads q_m, the coefficients of largest magnitude in each chunk of DCT(delta_m)
        delta_m <- delta_m - IDCT(q_m)
        w <- w - lr sign(IDCT(q)), each coefficient of q the mean of those workers that uploaded it; sign(0) = +1

    The server takes the means and returns the signs: one bit an entry, less than everyone's uploads would be.

    Options
    -------
    scale: > 0; an entry of w changes by scale * M gamma, M gamma the step size of a server that averages.
    decay: in [0, 1], of what was not uploaded; 1 keeps all of it.
    side: >= 1; chunks have at most side * side entries.
    kept: >= 1, coefficients of a chunk that are uploaded; larger sends more.
    """

    def __init__(self, scale: float, decay: float = 0.999, side: int = 64, kept: int = 32):
        if not scale > 0:
            raise UserError(f"scale={scale}: must be positive")
        if not 0 <= decay <= 1:
            raise UserError(f"decay={decay}: must be in [0, 1]")
        for name, number in (("side", side), ("kept", kept)):
            if number < 1:
                raise UserError(f"{name}={number}: must be at least 1")
        self.scale, self.decay, self.side, self.kept = scale, decay, side, kept

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()  # lr
        shape = (workspace.num_held, workspace.num_parameters)
        self.memory = self.register_state("memory", workspace.zeros(*shape), "worker")  # delta_m
        self._chunks = CosineChunks(workspace, self.side)
        self._segments = self._chunks.segments(self.kept)
        self._select = TopKSelector(self._segments)
        self._reply = Coded(workspace.num_parameters, SignCode())
        self._one = workspace.zeros() + 1

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch) * self.cluster.num_workers * self.scale)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        oracle(parameters).add_(self.memory.mul_(self.decay), self.step_size, None)
        values, indices = self._select(self._chunks.coefficients(self.memory), None)
        payload = Payload(values, indices, self._segments, in_range=True)
        self.memory.sub_(self._chunks.vectors(payload.dense()))
        signs = self.cluster.exchange(payload, None, self._signs, self._reply)
        self.apply_(parameters, signs * self.step_size)

    def _signs(self, arriving: Iterable[Uploads]) -> Tensor:
        total = self.memory.new_zeros(self._reply.num)
        number = total.clone()  # of workers that uploaded each coefficient
        for uploads in arriving:
            values, indices = uploads.payload.values.flatten(), uploads.payload.indices.flatten()
            total.index_add_(0, indices, values)
            number.index_add_(0, indices, self._one.expand(len(values)))
        mean = total.div_(number.clamp_(min=1))
        return signed(self._chunks.vectors(mean.unsqueeze(0))[0] < 0, self._one)
