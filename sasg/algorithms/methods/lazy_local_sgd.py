"""Local steps whose differences are uploaded only where they changed: lazy DiLoCo."""

from typing import Literal

from torch import Tensor

from sasg.algorithms.algorithm import Schedule, Workspace
from sasg.algorithms.methods.local_sgd import LocalSGD
from sasg.algorithms.parts.aggregation import SumOfLatest
from sasg.algorithms.parts.triggers import FOREVER, UpdateThreshold
from sasg.cluster import Payload
from sasg.errors import UserError
from sasg.gradients import Oracle
from sasg.kernels.rows import copy_rows_, squared_distances


class DifferenceChange(UpdateThreshold):
    """|| D_m - D_m of the last upload ||^2 > (scale / S) times the sum of the last S squared changes of w."""

    def __init__(self, scale: float, window: int, max_delay: int | None):
        longest_silence = FOREVER if max_delay is None else max_delay - 1
        super().__init__(num_differences=window, longest_silence=longest_silence)
        self.scale = scale

    def _weight(self, epoch: int, schedule: Schedule) -> float:
        return self.scale / self.num_differences

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        rows = workspace.zeros(workspace.num_held, workspace.num_parameters)
        self.uploaded = self.register_state("uploaded", rows, "worker")  # D_m of the last upload

    def sends(self, moved: Tensor, parameters: Tensor) -> Tensor:
        """Who uploads, [W] bool, of differences [W, d] from w [d]."""
        sent = self.decide(squared_distances(moved, self.uploaded), parameters)
        copy_rows_(self.uploaded, moved, sent)
        return sent

    def _remember(self, sent: Tensor, parameters: Tensor) -> None:
        pass


class LazyLocalSGD(LocalSGD):
    """Local steps, and LASG's rule on what is uploaded: D_m = w - w_m, after H steps of worker m from the common w.

    Worker m uploads in exchange r if

        || D_m^r - D_m^(r_m) ||^2 > (scale / S) sum_(j=1..S) || w^(r+1-j) - w^(r-j) ||^2,

    r_m the exchange in which it last did. The server goes on with everyone's latest D_m. In the first exchange everyone
    uploads. With H = 1, SGD at the workers and a constant step size this is LAG's rule, both sides times gamma'^2: D_m
    is then gamma' g_m. The two D_m are of different mini-batches. The other options are those of `LocalSGD`.

    Options
    -------
    scale: >= 0; larger skips more, and at 0 everyone uploads. Where the server has momentum, w moves further than by D
        and a smaller one skips as much: with DiLoCo's constants a constant D moves it by 7 D.
    window: S >= 1, in exchanges.
    max_delay: a worker uploads at least once in so many exchanges; null: none is forced.
    """

    def __init__(
        self,
        local_steps: int,
        scale: float,
        window: int = 10,
        max_delay: int | None = None,
        optimiser: dict | None = None,
        local_optimiser: dict | None = None,
        outer: Literal["gradient", "difference"] = "gradient",
    ):
        super().__init__(local_steps, optimiser, local_optimiser, outer)
        if not 0 <= scale < float("inf"):
            raise UserError(f"scale={scale}: must be at least 0")
        if window < 1:
            raise UserError(f"window={window}: must be at least 1")
        if max_delay is not None and max_delay < 1:
            raise UserError(f"max_delay={max_delay}: must be at least 1")
        self.rule = DifferenceChange(scale, window, max_delay)
        self.aggregation = SumOfLatest()

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        self.aggregation.expect(None)

    def step(self, oracle: Oracle, parameters: Tensor) -> None:
        self._train(oracle, parameters)
        self.sent = self.rule.sends(self._moved, parameters)
        self.difference, self.threshold = self.rule.difference, self.rule.threshold
        self.rule.observe(self._exchange(Payload(self._moved), parameters))
