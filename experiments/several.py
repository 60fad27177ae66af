"""Which of several runs this is, and how long the rest will take."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sasg.config import Config, flat

_TRAINED_SECONDS = 1.0  # a run that takes less was finished before


def duration(seconds: float) -> str:
    """h:mm:ss"""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def told(number: int, num_runs: int, name: str) -> str:
    """Which run begins: "[3/18] digits-sasg-s1"."""
    return f"[{number}/{num_runs}] {name}"


def names(configs: Sequence[Config]) -> list[str]:
    """What to call each run; where several have a name, with the settings that differ between those."""
    plain = [f"{config.task.name}-{config.algorithm['name']}-s{config.seed}" for config in configs]
    apart = told_apart(plain, [flat(config.as_dict()) for config in configs])
    return [f"{name} ({words})" if words else name for name, words in zip(plain, apart, strict=True)]


def told_apart(names: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each of several, which settings it has otherwise than others of its name; empty where there are none."""
    of_name: dict[str, list[Mapping[str, Any]]] = {}
    for name, own in zip(names, settings, strict=True):
        of_name.setdefault(name, []).append(own)
    found = []
    for name, own in zip(names, settings, strict=True):
        keys = [k for k, value in own.items() if any(other.get(k) != value for other in of_name[name])]
        found.append(", ".join(f"{key.rpartition('.')[2]}={own[key]}" for key in keys if own[key] is not None))
    return found


class Several:
    """Announces runs that are done one after another; says nothing of a single one."""

    def __init__(self, configs: Sequence[Config], clock: Callable[[], float] = time.monotonic):
        self._configs, self._names, self._clock = configs, names(configs), clock
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
            print(told(self._number, num_runs, self._names[self._number - 1]) + time_left, file=sys.stderr, flush=True)

    def _seconds(self, config: Config) -> float:
        """What a run will take: as those before it of its task and method, of its task, or of any, took on average."""
        keys = (lambda one: (one.task.name, one.algorithm["name"]), lambda one: one.task.name, lambda one: None)
        for key in keys:
            alike = [seconds for other, seconds in self._done if key(other) == key(config)]
            if alike:
                return sum(alike) / len(alike)
        return 0.0
