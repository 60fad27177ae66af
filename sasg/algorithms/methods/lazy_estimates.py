"""CLAG and LAQ: estimates of gradients as EF21's, to which workers upload nothing where little has changed."""

from abc import abstractmethod

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.compressors import Compressor
from sasg.algorithms.parts.estimates import SumOfEstimates, add_uploaded_
from sasg.algorithms.parts.triggers import LazyDecision, UpdateThreshold
from sasg.cluster import Payload
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import copy_rows_, squared_distances
from sasg.parts import build


class LazyEstimates(Algorithm):
    """Worker m keeps an estimate h_m of its gradient, which the server keeps too; both begin at 0.

        those who upload:  c_m = C(g_m(w^k) - h_m);  h_m += c_m
        w^(k+1) = w^k - gamma sum_m h_m

    Everyone uploads in the first iteration; then `rule` decides.
    """

    rule: LazyDecision

    def __init__(self, compressor: dict):
        self.compressor: Compressor = build("algorithm.compressor", compressor, Compressor)
        self.aggregation = SumOfEstimates()

    @abstractmethod
    def _upload(self, gradients: Tensor, parameters: Tensor) -> Payload:
        """The c_m, after `_decide`, for g_m [W, d] at w [d]; they are not added to h_m yet."""

    def _decide(self, difference: Tensor, parameters: Tensor) -> None:
        """Ask the rule who uploads, for differences [W]."""
        self.sent = self.rule.decide(difference, parameters)
        self.difference, self.threshold = self.rule.difference, self.rule.threshold

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        self.step_size = workspace.zeros()
        estimate = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self.estimate = self.register_state("estimate", estimate, "worker")  # h_m
        self._gradients = torch.zeros_like(estimate)
        self._one = workspace.zeros() + 1

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch))

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        oracle(parameters).write_(self._gradients, self._one, None)
        payload = self._upload(self._gradients, parameters)
        add_uploaded_(self.estimate, payload, self.sent)
        total = self.cluster.exchange(payload, self.sent, self.aggregation)
        self.rule.observe(self.apply_(parameters, total * self.step_size))


class Positive(LazyDecision):
    """Whether a difference is positive; nothing is kept, and no upload is forced."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self._zero = workspace.zeros()

    def _threshold(self) -> Tensor:
        return self._zero

    def _remember(self, sent: Tensor, parameters: Tensor) -> None:
        pass


class CLAG(LazyEstimates):
    """Worker m uploads if ||g_m(w^k) - h_m||^2 > zeta ||g_m(w^k) - g_m(w^(k-1))||^2.

    Compressed lazy aggregation (Richtárik, Sokolov, Fatkhullin, Gasanov, Li, Gorbunov 2022, arXiv 2202.00998). The two
    gradients on the right are of mini-batches one after the other. Without zeta it is EF21.

    Options
    -------
    zeta: >= 0; larger skips more.
    compressor: C, contractive.
    """

    def __init__(self, zeta: float, compressor: dict):
        super().__init__(compressor)
        if not 0 <= zeta < float("inf"):
            raise UserError(f"zeta={zeta}: must be at least 0")
        self.zeta = zeta
        self.rule = Positive()

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.previous = self.register_state("previous", torch.zeros_like(self.estimate), "worker")  # g_m(w^(k-1))

    def _upload(self, gradients: Tensor, parameters: Tensor) -> Payload:
        changed = squared_distances(gradients, self.previous)
        self.previous.copy_(gradients)
        self._decide(squared_distances(gradients, self.estimate) - self.zeta * changed, parameters)
        return self.compressor(gradients - self.estimate, self.sent)


class LAQThreshold(UpdateThreshold):
    """xi / (gamma^2 M^2) times the sum of the last squared differences of w."""

    def __init__(self, xi: float, window: int, longest_silence: int):
        super().__init__(num_differences=window, longest_silence=longest_silence)
        self.xi = xi

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        rows = workspace.zeros(workspace.num_held)
        self.last_error = self.register_state("last_error", rows, "worker")  # of the last upload
        self.error = torch.zeros_like(rows)  # ||g_m - h_m - c_m||^2

    def _weight(self, epoch: int, schedule: Schedule) -> float:
        return self.xi / (self.num_workers * schedule(epoch)) ** 2

    def _remember(self, sent: Tensor, parameters: Tensor) -> None:
        copy_rows_(self.last_error, self.error, sent)


class LAQ(LazyEstimates):
    """Worker m uploads if ||c_m||^2 > (xi / (gamma^2 M^2)) sum_j ||w^(k+1-j) - w^(k-j)||^2 + 3 (E_m + E_m').

    E_m = ||g_m - h_m - c_m||^2 is the error that it would make, E_m' that of its last upload. Lazily aggregated
    quantised gradients (Sun, Chen, Giannakis, Yang 2019, arXiv 1909.07588), for gradients without noise.

    Options
    -------
    compressor: C; `UniformGrid` is the paper's.
    xi: >= 0; larger skips more.
    window: >= 1, the differences of w that are summed.
    longest_silence: >= 0; after so many iterations without an upload there is one.
    """

    rule: LAQThreshold

    def __init__(self, compressor: dict, xi: float = 0.08, window: int = 10, longest_silence: int = 100):
        super().__init__(compressor)
        if not 0 <= xi < float("inf"):
            raise UserError(f"xi={xi}: must be at least 0")
        if window < 1:
            raise UserError(f"window={window}: must be at least 1")
        if longest_silence < 0:
            raise UserError(f"longest_silence={longest_silence}: must be at least 0")
        self.rule = LAQThreshold(xi, window, longest_silence)

    def _upload(self, gradients: Tensor, parameters: Tensor) -> Payload:
        payload = self.compressor(gradients - self.estimate, None)
        quantised = self.estimate.clone()
        add_uploaded_(quantised, payload, None)
        self.rule.error.copy_(squared_distances(gradients, quantised))
        errors = self.rule.error + self.rule.last_error
        self._decide(squared_distances(quantised, self.estimate) - 3 * errors, parameters)
        return payload
