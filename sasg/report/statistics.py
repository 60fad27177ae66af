"""Statistics over seeds: mean, spread, range and an interval of the mean, and comparisons over equal seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST = 4
"""Runs below which no interval is given: of two or three, the range says all there is to say."""

INTERVAL = "95 % interval (t)"
INTERVAL_NOTE = f"""The interval is Student's t on the mean, which covers it in 95 % of cases if runs scatter normally;
below {FEWEST} runs there is none, and the range stands in its place.
"""


@dataclass(frozen=True)
class Statistics:
    """What is known about one quantity over n runs.

    A run that never reached the baseline has no value: then there is no mean and no interval either, for
    the mean of the others would flatter the method. minimum and maximum are those of the runs that have one.
    """

    n: int
    num_missing: int  # runs without a value
    mean: float | None = None
    sd: float | None = None  # sample standard deviation; None for a single run
    minimum: float | None = None
    maximum: float | None = None
    low: float | None = None  # of the interval of the mean; None below FEWEST runs
    high: float | None = None

    @property
    def columns(self) -> dict[str, float | int | None]:
        """For a CSV, beside the mean."""
        return {
            "sd": self.sd,
            "low": self.low,
            "high": self.high,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "n": self.n,
            "n_without_value": self.num_missing,
        }

    def interval(self, text: Callable[[float], str]) -> str:
        """The interval for readers; the range, named as such, where there are too few runs; nothing for one."""
        if self.low is not None and self.high is not None:
            return f"{text(self.low)} to {text(self.high)}"
        if self.sd is None or self.minimum is None or self.maximum is None:
            return ""
        return f"range {text(self.minimum)} to {text(self.maximum)}"


def over_seeds(values: Sequence[float | None]) -> Statistics:
    """Statistics of a quantity of several runs; None for a run that has no value."""
    known = [float(value) for value in values if value is not None]
    num_missing = len(values) - len(known)
    if not known:
        return Statistics(len(values), num_missing)
    extremes = {"minimum": min(known), "maximum": max(known)}
    if num_missing:
        return Statistics(len(values), num_missing, **extremes)
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    low, high = mean_interval(known)
    return Statistics(len(values), 0, float(np.mean(known)), sd, **extremes, low=low, high=high)


def paired_ratios(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> Statistics:
    """Statistics of ours / theirs over the seeds that both have; a pair without both values is missing."""
    ratios = []
    for seed in sorted(ours.keys() & theirs.keys()):
        a, b = ours[seed], theirs[seed]
        ratios.append(a / b if a is not None and b else None)
    return over_seeds(ratios)


def mean_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's t interval (95 %) of the mean; None below `FEWEST` values."""
    if len(values) < FEWEST:
        return None, None
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)
