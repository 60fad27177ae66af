"""What does the server make of a mean gradient? Optimisers that keep their state at the server, or everywhere.

G [d] is in units of a mean gradient, and w falls by scale * eta * direction(G), eta = M gamma the step size of a server
that averages: the formulas are those of torch.optim at the learning rate scale * eta. As there, the step size of the
time multiplies the whole direction: where it decays, it decays for what is remembered as well.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.errors import UserError


class ServerOptimiser(Part):
    """Mean gradient -> direction in which w falls. scale: > 0, what multiplies the step size.

    is_everywhere: every process knows G and keeps the same state; the method says so before set-up.
    """

    scale: float
    is_everywhere: bool = False

    def __init__(self, scale: float):
        if not scale > 0:
            raise UserError(f"scale={scale}: must be positive")
        self.scale = scale

    @abstractmethod
    def __call__(self, gradient: Tensor) -> Tensor:
        """The direction [d] for a mean gradient [d]; where its state is kept."""

    def _keeps(self, workspace: Workspace) -> bool:
        """Whether this process keeps the state."""
        return self.is_everywhere or workspace.cluster.is_server

    def _keep(self, name: str, tensor: Tensor) -> Tensor:
        return self.register_state(name, tensor, "shared" if self.is_everywhere else "server")


class Momentum(ServerOptimiser):
    """m = momentum * m + G; direction m (heavy ball), or G + momentum * m with `nesterov`.

    Options
    -------
    momentum: in [0, 1); larger remembers longer. The directions of a constant G grow to G / (1 - momentum).
    scale: 1 - momentum makes the steps of a constant G those of plain SGD.
    """

    def __init__(self, momentum: float = 0.9, nesterov: bool = False, scale: float = 1.0):
        super().__init__(scale)
        if not 0 <= momentum < 1:
            raise UserError(f"momentum={momentum}: must be in [0, 1)")
        self.momentum, self.nesterov = momentum, nesterov

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        if self._keeps(workspace):
            self.velocity = self._keep("velocity", workspace.zeros(workspace.num_parameters))  # m

    def __call__(self, gradient: Tensor) -> Tensor:
        self.velocity.mul_(self.momentum).add_(gradient)
        return gradient.add(self.velocity, alpha=self.momentum) if self.nesterov else self.velocity.clone()


class AddedMomentum(Momentum):
    """m = momentum * m + G; direction G + m, as PowerSGD has it: G counts twice, unlike with Nesterov's momentum.

    Options
    -------
    momentum: as of `Momentum`. The directions of a constant G grow to G (1 + 1 / (1 - momentum)).
    scale: the inverse of that factor makes the steps of a constant G those of plain SGD.
    """

    def __init__(self, momentum: float = 0.9, scale: float = 1.0):
        super().__init__(momentum, scale=scale)

    def __call__(self, gradient: Tensor) -> Tensor:
        return super().__call__(gradient).add_(gradient)


class Adam(ServerOptimiser):
    """Adam (Kingma, Ba 2015, arXiv 1412.6980) and AMSGrad (Reddi, Kale, Kumar 2018, arXiv 1904.09237).

    m = b1 m + (1 - b1) G;  v = b2 v + (1 - b2) G^2;  v' = max(v', v) with `amsgrad`, else v' = v
    direction = (m / c1) / (sqrt(v' / c2) + eps),  c = 1 - b^t in iteration t = 1, 2, ... with `bias_correction`, else 1

    Options
    -------
    beta1, beta2: in [0, 1). eps: >= 0.
    bias_correction: as in Adam and torch.optim; without, it is AMSGrad as published.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        amsgrad: bool = False,
        bias_correction: bool = True,
        scale: float = 1.0,
    ):
        super().__init__(scale)
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise UserError(f"{name}={value}: must be in [0, 1)")
        if not eps >= 0:
            raise UserError(f"eps={eps}: must not be negative")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.amsgrad, self.bias_correction = amsgrad, bias_correction

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        if self._keeps(workspace):
            d = workspace.num_parameters
            self.first = self._keep("first", workspace.zeros(d))  # m
            self.second = self._keep("second", workspace.zeros(d))  # v
            self.iteration = self._keep("iteration", workspace.zeros(dtype=torch.int64))  # t
            if self.amsgrad:
                self.largest = self._keep("largest", workspace.zeros(d))  # v'

    def __call__(self, gradient: Tensor) -> Tensor:
        self.iteration.add_(1)
        self.first.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
        self.second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        second = self.second
        if self.amsgrad:
            second = torch.maximum(self.largest, second, out=self.largest)
        return self._corrected(self.first, self.beta1).div_(self._corrected(second, self.beta2).sqrt_().add_(self.eps))

    def _corrected(self, moment: Tensor, beta: float) -> Tensor:
        """moment / (1 - beta^t), or a copy."""
        if not self.bias_correction:
            return moment.clone()
        return moment / (1 - beta ** self.iteration.double()).to(moment.dtype)
