"""When does a worker upload?"""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sasg.algorithms.algorithm import Part, Schedule, Workspace
from sasg.errors import UserError
from sasg.gradients import Gradients, Oracle
from sasg.kernels.rows import aligned, copy_rows_

FOREVER = 2**62  # iterations


class Trigger(Part):
    """Decides which workers upload."""

    difference: Tensor | None = None  # [W], what the last decision compared with `threshold`
    threshold: Tensor | None = None  # scalar
    num_published_models: ClassVar[int | None] = None  # see `Algorithm`

    @abstractmethod
    def __call__(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> Tensor | None:
        """Who uploads, [W] bool; None where everyone always does."""

    def observe(self, update: Tensor) -> None:
        """Take note of by how much the parameters fell in this iteration, [d]."""


class Always(Trigger):
    """Every worker uploads in every iteration (SGD, Sparse)."""

    num_published_models = 1

    def __call__(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> None:
        return None


class LazyDecision(Part):
    """Who has changed by more than a threshold: difference > threshold.

    Everyone uploads in the first `num_first` iterations, and who has been silent for longer than `longest_silence`.
    staleness is 1 on upload, +1 per skip; with `counts_first` that holds for the first iterations too, else it is 0 in
    them.
    """

    scope_of_rows: ClassVar[str] = "worker"
    scope_of_common: ClassVar[str] = "shared"
    """Of what it keeps of each worker, and of all; see `Part.register_state`."""

    def __init__(self, longest_silence: int = FOREVER, num_first: int = 1, counts_first: bool = True):
        self.longest_silence = longest_silence
        self.num_first = num_first
        self.counts_first = counts_first

    @abstractmethod
    def _threshold(self) -> Tensor:
        """What differences must exceed in this iteration, a scalar."""

    @abstractmethod
    def _remember(self, sent: Tensor, parameters: Tensor) -> None:
        """Keep what later differences need of the uploads `sent` [W] at `parameters` [d]."""

    def _num_rows(self, workspace: Workspace) -> int:
        """How many workers are decided about here."""
        return workspace.num_held

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        staleness = workspace.zeros(self._num_rows(workspace), dtype=torch.int64)
        self.staleness = self.register_state("staleness", staleness, self.scope_of_rows)
        iteration = workspace.zeros(dtype=torch.int64)
        self.iteration = self.register_state("iteration", iteration, self.scope_of_common)

    def decide(self, difference: Tensor, parameters: Tensor) -> Tensor:
        """Who uploads, [W] bool, for differences [W] at parameters [d]."""
        self.difference, self.threshold = difference, self._threshold()
        first = self.iteration < self.num_first
        sent = first | (self.staleness > self.longest_silence) | (difference > self.threshold)
        self._remember(sent, parameters)
        restart = 1 if self.counts_first else torch.where(first, 0, 1)
        self.staleness.copy_(torch.where(sent, restart, self.staleness + 1))
        return sent

    def observe(self, update: Tensor) -> None:
        """Take note of this iteration's update [d], and go on to the next iteration."""
        self.iteration.add_(1)


class UpdateThreshold(LazyDecision):
    """The threshold is weight * sum of the last squared updates: has a worker changed by more than w did lately?"""

    def __init__(self, num_differences: int, **options):
        super().__init__(**options)
        self.num_differences = num_differences

    @abstractmethod
    def _weight(self, epoch: int, schedule: Schedule) -> float:
        """What the sum of squared updates is multiplied with in this epoch."""

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        squared_updates = workspace.zeros(max(1, self.num_differences))  # a ring, newest at iteration % length
        self.squared_updates = self.register_state("squared_updates", squared_updates, self.scope_of_common)
        self.weight = workspace.zeros()
        self.num_workers = workspace.cluster.num_workers

    def begin_epoch(self, epoch: int, schedule: Schedule) -> None:
        super().begin_epoch(epoch, schedule)
        self.weight.fill_(self._weight(epoch, schedule))

    def _threshold(self) -> Tensor:
        return self.weight * self.squared_updates.sum()

    def observe(self, update: Tensor) -> None:
        if self.num_differences:
            slot = (self.iteration % self.num_differences).unsqueeze(0)
            self.squared_updates.index_copy_(0, slot, torch.dot(update, update).unsqueeze(0))
        super().observe(update)


class PastIterates(LazyDecision):
    """Keeps w^(k_m), at which a worker last uploaded. Workers that uploaded in the same iteration share it.

    past: [H, d], H = min(W, longest_silence + 2): as many as workers can differ in. comparison: [W], the rows of the
    w^(k_m). A checkpoint holds `compared` [W, d], the w^(k_m) themselves, and `uploaded_at` [W], k_m: which workers
    share an iterate then does not depend on how they are spread over processes.
    """

    def setup(self, workspace: Workspace) -> None:
        super().setup(workspace)
        num_rows = min(len(self.staleness), self.longest_silence + 2)
        self.past = aligned(workspace.zeros(num_rows, workspace.num_parameters))
        self.comparison = torch.zeros_like(self.staleness)
        self.uploaded_at = self.register_state("uploaded_at", torch.zeros_like(self.staleness), self.scope_of_rows)
        self.declare_state("compared", self.scope_of_rows, write=PastIterates._take_compared)
        self._rows = torch.arange(num_rows, device=workspace.device)
        self._kept = torch.zeros(num_rows + 1, dtype=torch.bool, device=workspace.device)

    @property
    def compared(self) -> Tensor:
        """w^(k_m), [W, d], as a copy."""
        return self.past.index_select(0, self.comparison)

    def _take_compared(self, iterates: Tensor) -> None:
        self.comparison.copy_(self.uploaded_at.unique(return_inverse=True)[1])
        self.past[self.comparison] = iterates

    def _remember(self, sent: Tensor, parameters: Tensor) -> None:
        free = self._free_row(sent)
        copy_rows_(self.past, parameters, self._rows == free)
        torch.where(sent, free, self.comparison, out=self.comparison)
        torch.where(sent, self.iteration, self.uploaded_at, out=self.uploaded_at)

    def _free_row(self, sent: Tensor) -> Tensor:
        """The first row that no worker refers to once those of `sent` [W] have left theirs; else H (nobody sends)."""
        num_rows = len(self._rows)
        self._kept.zero_().index_fill_(0, torch.where(sent, num_rows, self.comparison), True)
        return torch.where(self._kept[:num_rows], num_rows, self._rows).amin()


class LazyTrigger(LazyDecision, Trigger):
    """A lazy decision that the workers take, about a difference that they compute."""

    @abstractmethod
    def _difference(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> Tensor:
        """What is compared with the threshold, [W]."""

    def __call__(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> Tensor:
        return self.decide(self._difference(gradients, parameters, oracle), parameters)


class GradientChange(PastIterates, LazyTrigger):
    """Rules on || g_m(w^k) - g_m(w^(k_m)) ||^2, with both gradients on the same mini-batch."""

    def _difference(self, gradients: Gradients, parameters: Tensor, oracle: Oracle) -> Tensor:
        return gradients.squared_distance(oracle.at(self.past, self.comparison))


class Lazy(UpdateThreshold, GradientChange):
    """Rule (6) of the SASG paper (arXiv 2112.04088), which is WK2 of LASG (Chen, Sun, Yin 2021).

    Worker m uploads in iteration k if

        || g_m(w^k) - g_m(w^(k_m)) ||^2 > (1/M^2) sum_j alpha_j || w^(k+1-j) - w^(k-j) ||^2,

    with w^(k_m) the iterate at which it last uploaded and both gradients raw, on the same mini-batch. It must
    upload in the first iterations, and when it has been silent for too long.

    Options
    -------
    max_delay: D >= 1.
    alpha: alpha_j * gamma, the same for all j; larger skips more.
    window: "D-1" or "D" past differences are summed. The published code keeps D iterates: D - 1 differences.
    first_uploads: everyone uploads for k < "D" (published code) or k < "1" (the formulas).
    delay_counter: "reference": 0 during the first uploads, then 1 on upload, +1 per skip, forced when > D.
        "paper": 1 on upload, +1 per skip, forced when it reaches D.
    threshold_step_size: gamma in alpha_j follows the schedule one epoch "late" (published code), or is "current".
    """

    num_published_models = 2  # the other holds a worker's w^(k_m)

    def __init__(
        self,
        max_delay: int,
        alpha: float,
        window: Literal["D-1", "D"] = "D-1",
        first_uploads: Literal["D", "1"] = "D",
        delay_counter: Literal["reference", "paper"] = "reference",
        threshold_step_size: Literal["late", "current"] = "late",
    ):
        if max_delay < 1:
            raise UserError(f"max_delay={max_delay}: D must be at least 1")
        if not alpha >= 0:
            raise UserError(f"alpha={alpha}: must not be negative")
        super().__init__(
            num_differences=max_delay - 1 if window == "D-1" else max_delay,
            longest_silence=max_delay if delay_counter == "reference" else max_delay - 1,
            num_first=max_delay if first_uploads == "D" else 1,
            counts_first=delay_counter == "paper",
        )
        self.alpha = alpha
        self.schedule_lag = 1 if threshold_step_size == "late" else 0

    def _weight(self, epoch: int, schedule: Schedule) -> float:
        return self.alpha / schedule(max(0, epoch - self.schedule_lag)) / self.num_workers**2
