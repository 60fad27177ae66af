"""Qsparse-local-SGD: local steps, of which the largest entries are uploaded in few bits."""

from dataclasses import replace

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.methods.local_sgd import LocalSGD
from sasg.algorithms.parts.compressors import TopK, subtract_
from sasg.algorithms.parts.quantisers import Quantiser
from sasg.algorithms.parts.segments import Scope
from sasg.cluster import Payload
from sasg.parts import build


class QsparseLocalSGD(LocalSGD):
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
    """

    def __init__(self, local_steps: int, density: float, scope: Scope = "vector", quantiser: dict | None = None):
        super().__init__(local_steps)
        self.top_k = TopK(density, scope)
        self.quantiser: Quantiser | None = None
        if quantiser is not None:
            self.quantiser = build("algorithm.quantiser", quantiser, Quantiser)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        memory = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self.memory = self.register_state("memory", memory, "worker")  # e_m, then D_m

    def _payload(self) -> Payload:
        payload = self.top_k(self.memory.add_(self._moved), None)
        if self.quantiser is not None:
            values, side = self.quantiser(payload.values)
            payload = replace(payload, values=values, code=self.quantiser.code, side=side)
        subtract_(self.memory, payload)
        return payload
