"""CMFL's trigger (Wang, Wang, Li 2019, doi 10.1109/icdcs.2019.00099): does a worker pull where the model last went?"""

from typing import Literal

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Workspace
from sasg.algorithms.parts.triggers import Trigger
from sasg.errors import UserError
from sasg.gradients import Gradients, Oracle


class Relevance(Trigger):
    """A worker uploads if -g_m has the sign of w^k - w^(k-1) in at least this share of the entries; sign(0) = +1.

    Where w has not changed there is nothing to compare with, and everyone uploads: in the first iteration, and after
    one in which nobody did.

    Options
    -------
    share: in [0, 1]; larger skips more. 0 uploads always.
    schedule: "constant", or "sqrt" (the paper's): share / sqrt(k) in iteration k = 1, 2, ...
    """

    def __init__(self, share: float = 0.5, schedule: Literal["constant", "sqrt"] = "constant"):
        if not 0 <= share <= 1:
            raise UserError(f"share={share}: must be in [0, 1]")
        self.share, self.decays = share, schedule == "sqrt"

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        d = workspace.num_parameters
        self.decrease = self.register_state("decrease", workspace.zeros(d), "shared")  # w^(k-1) - w^k
        self.iteration = self.register_state("iteration", workspace.zeros(dtype=torch.int64), "shared")
        self._gradients = workspace.zeros(workspace.num_held, d)
        self._one = workspace.zeros() + 1

    def __call__(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> Tensor:
        self.iteration.add_(1)
        gradients.write_(self._gradients, self._one, None)
        agree = (self._gradients <= 0) == (self.decrease <= 0)  # sign(-g) = +1, as sign(0) is
        self.difference = agree.sum(1).to(self._one.dtype) / len(self.decrease)
        decay = self.iteration.double().rsqrt().to(self._one.dtype) if self.decays else 1
        self.threshold = self._one * self.share * decay
        return (self.difference >= self.threshold) | ~self.decrease.any()

    def observe(self, update: Tensor) -> None:
        self.decrease.copy_(update)
