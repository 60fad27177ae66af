"""The triggers of CADA (Chen, Guo, Sun, Yin 2021, arXiv 2012.15469): LASG's rules before an adaptive server."""

from sasg.algorithms.algorithm import Schedule
from sasg.algorithms.parts.lasg import WK1, WK2, AuthorsThreshold


class CADAThreshold(AuthorsThreshold):
    """(c / S) times the sum of the last S squared differences of w, whatever the step size; c is `scale`."""

    def _weight(self, epoch: int, schedule: Schedule) -> float:
        return self.scale / self.num_differences


class CADA1(CADAThreshold, WK1):
    """WK1's difference: gradients relative to those at a snapshot. Options: as of `AuthorsThreshold`."""


class CADA2(CADAThreshold, WK2):
    """WK2's difference: gradients at w and where the worker last uploaded. Options: as of `AuthorsThreshold`."""
