"""Incremental methods: in each iteration one worker is drawn to upload."""

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.draws import Draws
from sasg.algorithms.parts.triggers import Trigger
from sasg.gradients import Gradients, Oracle


class OneBySmoothness(Trigger):
    """One worker uploads, worker m with probability L_m / sum_n L_n, L_m the smoothness constant of its f_m.

    With the sum of everyone's latest upload, w <- w - gamma sum_m (latest gradient of m), this is incremental
    aggregated gradient with non-uniform sampling: NoUnif-IAG of GD-SEC's comparison, Num-IAG of LAG's (Chen,
    Giannakis, Sun, Yin 2018); the probabilities are those of Schmidt, Le Roux, Bach 2017, section 5. In the first
    iteration all upload. Without smoothness constants (cross entropy) there is a UserError.
    """

    def __init__(self) -> None:
        self.draws = Draws()

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        shares = torch.from_numpy(workspace.smoothness().workers).cumsum(0)
        self._bounds = (shares / shares[-1]).to(workspace.device, workspace.dtype)
        self._workers = torch.tensor(workspace.cluster.workers, device=workspace.device)
        is_first = torch.ones((), dtype=torch.bool, device=workspace.device)
        self.is_first = self.register_state("is_first", is_first, "shared")

    def __call__(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> Tensor:
        chosen = torch.searchsorted(self._bounds, self.draws.shared(1), right=True)
        sent = (self._workers == chosen) | self.is_first
        self.is_first.fill_(False)
        return sent
