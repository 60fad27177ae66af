"""Local steps, of which the largest entries are uploaded in few bits: Qsparse-local-SGD and SparseLoCo."""

from dataclasses import replace
from typing import Any

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.methods.local_sgd import LocalSGD
from sasg.algorithms.parts.chunks import ChunkedTopK
from sasg.algorithms.parts.compressors import TopK, subtract_
from sasg.algorithms.parts.quantisers import Quantiser
from sasg.algorithms.parts.segments import Scope
from sasg.cluster import Payload
from sasg.errors import UserError
from sasg.parts import build


class SparseDifferences(LocalSGD):
    """Everyone uploads S_m = Q(top-k D_m), D_m = decay e_m + w - w_m, and keeps e_m = D_m - S_m, which begins at 0."""

    top_k: TopK
    decay: float = 1.0

    def __init__(self, top_k: TopK, quantiser: dict | None, **options: Any):
        super().__init__(**options)
        self.top_k = top_k
        self.quantiser: Quantiser | None = None
        if quantiser is not None:
            self.quantiser = build("algorithm.quantiser", quantiser, Quantiser)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        memory = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self.memory = self.register_state("memory", memory, "worker")  # e_m, then D_m
        if self.quantiser is not None:
            self.quantiser.expect(tuple(segment.kept for segment in self.top_k.segments))

    def _payload(self) -> Payload:
        if self.decay != 1:
            self.memory.mul_(self.decay)
        payload = self.top_k(self.memory.add_(self._moved), None)
        if self.quantiser is not None:
            values, side = self.quantiser(payload.values)
            payload = replace(payload, values=values, code=self.quantiser.code, side=side)
        subtract_(self.memory, payload)
        return payload


class QsparseLocalSGD(SparseDifferences):
    """Local SGD that uploads sparse and quantised differences (Basu, Data, Karakus, Diggavi 2019, arXiv 1906.02367).

    Worker m: H SGD steps from the common w to w_m, as in local SGD;  D_m = e_m + w - w_m, with e_m = 0 at first
    Exchange: everyone uploads S_m = Q(top-k D_m);  e_m = D_m - S_m
    Server:   w <- w - (1/M) sum_m S_m

    All workers exchange together, after H steps (the synchronous variant).

    Options
    -------
    local_steps: H, as of `LocalSGD`.
    density, scope: as of `TopK`.
    quantiser: a `Quantiser` Q, or null for plain floats. What an unbiased one loses must be less than what top-k keeps:
        random rounding to s levels wants s > the square root of the entries that share a norm.
    local_optimiser: as of `LocalSGD`; null: SGD.
    """

    def __init__(
        self,
        local_steps: int,
        density: float,
        scope: Scope = "vector",
        quantiser: dict | None = None,
        local_optimiser: dict | None = None,
    ):
        super().__init__(TopK(density, scope), quantiser, local_steps=local_steps, local_optimiser=local_optimiser)


class SparseLoCo(SparseDifferences):
    """DiLoCo whose differences are uploaded sparse, in two bits a value (Sarfi et al. 2025, arXiv 2508.15706).

    Worker m: H steps of its optimiser from the common w to w_m;  D_m = decay e_m + w - w_m, with e_m = 0 at first
    Exchange: everyone uploads S_m = Q(the largest entries of each chunk of D_m);  e_m = D_m - S_m
    Server:   w <- w - (1/M) sum_m S_m

    Options
    -------
    local_steps, local_optimiser: H, and the workers' optimiser, as of `LocalSGD`.
    optimiser: an `Optimiser` of the server, which gets the mean difference; null: w falls by it (the paper's outer
        learning rate of 1, without momentum).
    kept, chunk, scope: as of `ChunkedTopK`.
    quantiser: a `Quantiser` Q of the values that are kept, or null for plain floats.
    decay: of e_m, in (0, 1].
    """

    def __init__(
        self,
        local_steps: int,
        kept: int = 64,
        chunk: int = 4096,
        scope: Scope = "tensor",
        quantiser: dict | None = None,
        decay: float = 0.95,
        local_optimiser: dict | None = None,
        optimiser: dict | None = None,
    ):
        top_k = ChunkedTopK(kept, chunk, scope)
        options = {"optimiser": optimiser, "local_optimiser": local_optimiser, "outer": "difference"}
        super().__init__(top_k, quantiser, local_steps=local_steps, **options)
        if not 0 < decay <= 1:
            raise UserError(f"decay={decay}: must be in (0, 1]")
        self.decay = decay
