"""What is made of a gradient? Optimisers that keep their state at the server, in every process, or at each worker.

G is in units of a mean gradient: [d] at the server, or [W, d], the workers' own. w falls by scale * eta * direction(G),
eta = M gamma the step size of a server that averages: the formulas are those of torch.optim at the learning rate
scale * eta. As there, the step size of the time multiplies the whole direction: where it decays, it decays for what is
remembered as well.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Workspace
from sasg.errors import UserError
from sasg.kernels.rows import one_by_one


class Optimiser(Part):
    """Gradient -> direction in which w falls. scale: > 0, what multiplies the step size.

    place: whose it is: the "server"'s, of a mean gradient that it alone knows; "shared", of one that every process
    knows; or the "worker"s', of their own gradients. The method says so before set-up.
    """

    scale: float
    place: str = "server"

    def __init__(self, scale: float):
        if not scale > 0:
            raise UserError(f"scale={scale}: must be positive")
        self.scale = scale

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        if self.place != "server" or workspace.cluster.is_server:
            self._allocate(workspace)

    @abstractmethod
    def __call__(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        """The direction [d] for a gradient [d] at `parameters` [d], where its state is kept.

        At workers [W, d] for [W, d], at parameters [W, d] or the same for all [d].
        """

    def _allocate(self, workspace: Workspace) -> None:
        """Register the state, in a process that keeps it."""

    def _keep(self, name: str, workspace: Workspace) -> Tensor:
        """Zeros like a gradient, as state."""
        rows = (workspace.num_held,) if self.place == "worker" else ()
        return self.register_state(name, workspace.zeros(*rows, workspace.num_parameters), self.place)


class Momentum(Optimiser):
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

    def _allocate(self, workspace: Workspace) -> None:
        self.velocity = self._keep("velocity", workspace)  # m

    def __call__(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        self.velocity.mul_(self.momentum).add_(gradient)
        if not self.nesterov:
            return self.velocity.clone()
        direction = gradient.clone()
        for own, velocity in one_by_one(direction, self.velocity):
            own.add_(velocity, alpha=self.momentum)
        return direction


class AddedMomentum(Momentum):
    """m = momentum * m + G; direction G + m, as PowerSGD has it: G counts twice, unlike with Nesterov's momentum.

    Options
    -------
    momentum: as of `Momentum`. The directions of a constant G grow to G (1 + 1 / (1 - momentum)).
    scale: the inverse of that factor makes the steps of a constant G those of plain SGD.
    """

    def __init__(self, momentum: float = 0.9, scale: float = 1.0):
        super().__init__(momentum, scale=scale)

    def __call__(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        return super().__call__(gradient, parameters).add_(gradient)


class Adam(Optimiser):
    """Adam (Kingma, Ba 2015, arXiv 1412.6980), AMSGrad (Reddi, Kale, Kumar 2018, arXiv 1904.09237) and AdamW.

    m = b1 m + (1 - b1) G;  v = b2 v + (1 - b2) G^2;  v' = max(v', v) with `amsgrad`, else v' = v
    direction = (m / c1) / (sqrt(v' / c2) + eps) + weight_decay * w
    c = 1 - b^t for the gradient t = 1, 2, ... with `bias_correction`, else 1

    Options
    -------
    beta1, beta2: in [0, 1). eps: >= 0.
    bias_correction: as in Adam and torch.optim; without, it is AMSGrad as published.
    weight_decay: >= 0; decoupled from the gradient (AdamW; Loshchilov, Hutter 2019, arXiv 1711.05101), on all of w.
    """

    def __init__(
        self,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        amsgrad: bool = False,
        bias_correction: bool = True,
        scale: float = 1.0,
        weight_decay: float = 0.0,
    ):
        super().__init__(scale)
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise UserError(f"{name}={value}: must be in [0, 1)")
        if not eps >= 0:
            raise UserError(f"eps={eps}: must not be negative")
        if not weight_decay >= 0:
            raise UserError(f"weight_decay={weight_decay}: must not be negative")
        self.weight_decay = weight_decay
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.amsgrad, self.bias_correction = amsgrad, bias_correction

    def _allocate(self, workspace: Workspace) -> None:
        self.first, self.second = (self._keep(name, workspace) for name in ("first", "second"))  # m, v
        iteration = workspace.zeros(dtype=torch.int64)  # t, also of workers, who make equally many steps
        self.iteration = self.register_state("iteration", iteration, "server" if self.place == "server" else "shared")
        if self.amsgrad:
            self.largest = self._keep("largest", workspace)  # v'

    def __call__(self, gradient: Tensor, parameters: Tensor) -> Tensor:
        self.iteration.add_(1)
        for g, first, second in one_by_one(gradient, self.first, self.second):
            first.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
            second.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        second = self.second
        if self.amsgrad:
            second = torch.maximum(self.largest, second, out=self.largest)
        scales = self._corrected(second, self.beta2).sqrt_().add_(self.eps)
        direction = self._corrected(self.first, self.beta1).div_(scales)
        if self.weight_decay:
            for own, w in one_by_one(direction, parameters):
                own.add_(w, alpha=self.weight_decay)
        return direction

    def _corrected(self, moment: Tensor, beta: float) -> Tensor:
        """moment / (1 - beta^t), or a copy."""
        if not self.bias_correction:
            return moment.clone()
        return moment / (1 - beta ** self.iteration.double()).to(moment.dtype)
