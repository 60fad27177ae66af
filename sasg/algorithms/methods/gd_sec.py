"""GD-SEC: gradient descent with sparsified gradient differences (Chen, Blum, Takac, Sadler 2022; arXiv 2202.02491)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Algorithm, Schedule, Workspace
from sasg.algorithms.parts.qsgd import RandomRounding
from sasg.cluster import Payload, Uploads
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import add_rows_


class GDSEC(Algorithm):
    """Workers upload the entries of what changed in their gradients that are large beside the last step.

    In iteration k, for f = sum_m f_m, step size alpha, worker states h_m, e_m and the server's h = sum_m h_m (all
    begin at 0; w^0 = w^1), with g_m the gradient of f_m at w^k, on worker m's mini-batch:

        Delta_m   = g_m - h_m + e_m
        sent_m[i] = Delta_m[i] if |Delta_m[i]| > (xi_i / M) |w^k[i] - w^(k-1)[i]| else 0
        h_m      += beta sent_m ;  e_m = Delta_m - sent_m ;  a worker with nothing to send does not upload
        w^(k+1)   = w^k - alpha (h + sum_m sent_m) ;  h += beta sum_m sent_m

    Full batches make it GD-SEC, mini-batches SGD-SEC.

    Options
    -------
    xi: >= 0; larger sends less. 0 is gradient descent.
    beta: in (0, 1]; how fast h_m follows the gradient.
    error_correction: without it (GD-SOEC) e_m stays 0: what is not sent is lost.
    state_variable: without it h_m stays 0: gradients are sent, not what changed in them.
    coordinate_wise: xi_i = xi / L_i, with L_i the smoothness constant of f along coordinate i; else xi_i = xi.
    share: in (0, 1]; max(1, round(share * M)) workers in turn may upload in an iteration. For the others sent_m = 0,
        so that e_m keeps all of Delta_m.
    num_levels: entries that are sent are quantised (QSGD-SEC; see `qsgd.RandomRounding`), and e_m keeps the difference.
    """

    estimate: Tensor  # h_m, [W, d]
    memory: Tensor  # e_m, [W, d]
    previous: Tensor  # w^(k-1), [d]
    iteration: Tensor
    total: Tensor  # h, [d], at the server

    extra_columns = ("side_bits",)

    def __init__(
        self,
        xi: float,
        beta: float,
        error_correction: bool = True,
        state_variable: bool = True,
        coordinate_wise: bool = False,
        share: float = 1.0,
        num_levels: int | None = None,
    ):
        if not 0 <= xi < float("inf"):
            raise UserError(f"xi={xi}: must be at least 0")
        for name, value in (("beta", beta), ("share", share)):
            if not 0 < value <= 1:
                raise UserError(f"{name}={value}: must be in (0, 1]")
        self.xi, self.share = xi, share
        self.beta = beta if state_variable else 0.0
        self.error_correction, self.coordinate_wise = error_correction, coordinate_wise
        self.quantise = None if num_levels is None else RandomRounding(num_levels)

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.cluster = workspace.cluster
        num_workers, d = self.cluster.num_workers, workspace.num_parameters
        self.step_size = workspace.zeros()
        for name in ("estimate", "memory"):
            self.register_state(name, workspace.zeros(workspace.num_held, d), "worker")
        self.register_state("previous", workspace.zeros(d), "shared")
        self.register_state("iteration", workspace.zeros(dtype=torch.int64), "shared")
        if self.cluster.is_server:
            self.register_state("total", workspace.zeros(d), "server")
        self._per_step = torch.full_like(self.previous, self.xi / num_workers)  # xi_i / M
        if self.coordinate_wise:
            self._per_step /= torch.from_numpy(workspace.smoothness().coordinates).to(self._per_step)
        self._workers = torch.tensor(self.cluster.workers, device=workspace.device)
        self._num_scheduled = max(1, round(self.share * num_workers))

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.step_size.fill_(schedule(epoch))

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        delta = oracle(parameters).dense() - self.estimate + self.memory
        survives = self._survivors(delta, parameters)
        transmitted, side = torch.where(survives, delta, 0), {}
        if self.quantise is not None:
            transmitted, norms = self.quantise(transmitted)
            side = {"code": self.quantise.code, "side": norms}
        add_rows_(self.estimate, transmitted, self.beta)
        if self.error_correction:
            torch.sub(delta, transmitted, out=self.memory)
        self.previous.copy_(parameters)
        self.iteration.add_(1)
        self.sent = survives.any(1)
        payload = Payload.of_survivors(transmitted, survives, **side)
        self.apply_(parameters, self.cluster.exchange(payload, self.sent, self._server))

    def _survivors(self, delta: Tensor, parameters: Tensor) -> Tensor:
        """Which entries [W, d] are sent."""
        step = torch.where(self.iteration == 0, 0, (parameters - self.previous).abs())  # w^0 = w^1
        survives = delta.abs() > self._per_step * step
        if self._num_scheduled == self.cluster.num_workers:
            return survives
        turn = (self._workers - self.iteration * self._num_scheduled) % self.cluster.num_workers
        return survives & (turn < self._num_scheduled).unsqueeze(1)

    def _server(self, arriving: Iterable[Uploads]) -> Tensor:
        added = torch.zeros_like(self.total)
        for uploads in arriving:
            values = uploads.payload.uploaded(uploads.sent)
            added.index_add_(0, uploads.payload.indices.flatten(), values.flatten())
        update = self.step_size * (self.total + added)
        self.total.add_(added, alpha=self.beta)
        return update
