"""The step size as a function of the epoch."""

from dataclasses import dataclass
from math import cos, pi

from sasg.config import Task


@dataclass(frozen=True)
class StepSchedule:
    """`step_size`, multiplied by `decay_factor` from each of `decay_epochs` (0-based) on.

    In the first `warmup_epochs` it rises linearly, epoch by epoch, from `warmup_factor` times that. With a
    `cosine_factor` it falls after them along half a period of a cosine, to that share in the last of `epochs`.
    """

    step_size: float
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    warmup_epochs: int = 0
    warmup_factor: float = 1.0
    cosine_factor: float | None = None
    epochs: int = 1

    @classmethod
    def of(cls, task: Task, step_size: float, epochs: int) -> "StepSchedule":
        """A task's, in a run of so many epochs; step_size: as a number."""
        names = ("decay_epochs", "decay_factor", "warmup_epochs", "warmup_factor", "cosine_factor")
        return cls(step_size, **{name: getattr(task, name) for name in names}, epochs=epochs)

    def __call__(self, epoch: int) -> float:
        decayed = self.step_size * self.decay_factor ** sum(epoch >= decay for decay in self.decay_epochs)
        if epoch < self.warmup_epochs:
            return decayed * (self.warmup_factor + (1 - self.warmup_factor) * epoch / self.warmup_epochs)
        if self.cosine_factor is None:
            return decayed
        passed = (epoch - self.warmup_epochs) / max(1, self.epochs - 1 - self.warmup_epochs)
        return decayed * (self.cosine_factor + (1 - self.cosine_factor) * (1 + cos(pi * passed)) / 2)
