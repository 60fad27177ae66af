"""Which of several runs this is, and how long the rest will take."""

import sys
import time
from collections.abc import Callable, Sequence

from sasg.config import Config

_TRAINED_SECONDS = 1.0  # a run that takes less was finished before


def duration(seconds: float) -> str:
    """h:mm:ss"""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def told(number: int, num_runs: int, config: Config) -> str:
    """Which run begins: "[3/18] digits-sasg-s1"."""
    return f"[{number}/{num_runs}] {config.task.name}-{config.algorithm['name']}-s{config.seed}"


class Several:
    """Announces runs that are done one after another; says nothing of a single one."""

    def __init__(self, configs: Sequence[Config], clock: Callable[[], float] = time.monotonic):
        self._configs, self._clock = configs, clock
        self._done: list[tuple[Config, float]] = []  # with their seconds, but for those that were finished before
        self._began: tuple[Config, float] | None = None
        self._number = 0

    def announce(self, config: Config) -> None:
        """Say on stderr that this one begins, e.g. "[3/18] digits-sasg-s1, about 0:12:30 left"."""
        now = self._clock()
        if self._began is not None and (seconds := now - self._began[1]) >= _TRAINED_SECONDS:
            self._done.append((self._began[0], seconds))
        self._began = config, now
        self._number += 1
        num_runs = len(self._configs)
        if num_runs > 1:
            left = self._configs[self._number - 1 :]
            time_left = f", about {duration(sum(map(self._seconds, left)))} left" if self._done else ""
            print(told(self._number, num_runs, config) + time_left, file=sys.stderr, flush=True)

    def _seconds(self, config: Config) -> float:
        """What a run will take: as those before it of its task and method, of its task, or of any, took on average."""
        keys = (lambda one: (one.task.name, one.algorithm["name"]), lambda one: one.task.name, lambda one: None)
        for key in keys:
            alike = [seconds for other, seconds in self._done if key(other) == key(config)]
            if alike:
                return sum(alike) / len(alike)
        return 0.0
