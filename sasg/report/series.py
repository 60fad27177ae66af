"""The one selection of runs that every table, figure and page shows: series of runs that differ in their seed alone."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sasg.config import Config, flat
from sasg.errors import UserError
from sasg.problem.building import build_objective
from sasg.report.names import METHODS, TASKS, method_name
from sasg.report.runs import Entry, Run

ORIGIN = ("device", "data_sha256")
"""What tells series apart only where several are named: a study leaves it open, run folders name it."""


@dataclass(frozen=True)
class Series:
    """The runs that differ in nothing but their seed."""

    task: str
    method: str
    label: str  # of figures: the method, and in what its settings differ from others' of the task
    config: Config  # of the first seed
    entries: tuple[Entry, ...]
    settings: dict[str, Any] = field(default_factory=dict)  # what differs between the rows of the task, by dotted key

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Those that ended: finished or diverged."""
        return tuple(entry.run for entry in self.entries if entry.run)

    @cached_property
    def drawn(self) -> tuple[Run, ...]:
        """What a figure shows: the runs that ended, or if there is none, what there is of unfinished ones."""
        unfinished = tuple(entry.unfinished for entry in self.entries if entry.unfinished)
        return tuple(run for run in self.runs or unfinished if run.has_rows)

    def setting(self, key: str) -> Any:
        """The value of a setting by its dotted name, also of one that differs in another task alone."""
        if key in self.settings or key in ORIGIN:
            return self.settings.get(key)
        return flat(self.config.identity("any", "any")).get(key)

    @property
    def num_planned(self) -> int:
        return len(self.entries)

    @property
    def num_finished(self) -> int:
        return sum(run.status == "finished" for run in self.runs)

    @property
    def missing(self) -> str:
        """What a cell says where no run has ended."""
        found = {entry.unfinished.status for entry in self.entries if entry.unfinished}
        return "failed" if "failed" in found else "unfinished" if found else "not run"

    @property
    def status(self) -> str:
        """How many finished, and what became of the others: "3 of 5; seed 19 diverged at iteration 200"."""
        words = [(entry.config.seed, entry.words) for entry in self.entries]
        told = [f"seed {seed} {word}" for seed, word in words if word not in ("finished", "not run")]
        if not told and not self.runs:
            return "not run"
        return "; ".join([f"{self.num_finished} of {self.num_planned}", *told])


def all_series(entries: Sequence[Entry]) -> list[Series]:
    """Entries by task, method and settings: tasks and methods in their order, settings by their values.

    `settings` are all those in which series of a task differ: any where the method is the same, and between methods
    what is no part of the method. A label names what differs from most others'.
    """
    series = []
    for task in dict.fromkeys(entry.task for entry in entries):
        of_task = [entry for entry in entries if entry.task == task]
        named = [key for key in ORIGIN if len({_origin(e.config, key) for e in of_task} - {None}) > 1]
        groups: dict[str, list[Entry]] = {}
        for entry in of_task:
            groups.setdefault(json.dumps(_settings(entry.config, named), sort_keys=True), []).append(entry)
        series += _of_task([(flat(_settings(group[0].config, named)), group) for group in groups.values()])
    return series


def _of_task(groups: Sequence[tuple[dict[str, Any], list[Entry]]]) -> list[Series]:
    within: dict[str, set[str]] = {}  # keys that differ between the settings of one method
    for method in {group[0].method for _, group in groups}:
        within[method] = _differing([own for own, group in groups if group[0].method == method])
    between = {key for key in _differing([own for own, _ in groups]) if not key.startswith("algorithm.")}
    usual = {key: _usual([own.get(key) for own, _ in groups]) for key in between}
    keys = list(dict.fromkeys(key for own, _ in groups for key in own))
    shown = [key for key in keys if key in between or any(key in found for found in within.values())]
    shown = [key for place, key in enumerate(shown) if not _told_by(key, shown[:place], [own for own, _ in groups])]
    series = []
    for own, group in groups:
        method = group[0].method
        named = [key for key in shown if key in within[method] or (key in between and usual[key] != [own.get(key)])]
        words = ", ".join(f"{_short(key, shown)}={_value(own[key])}" for key in named if key in own)
        label = method_name(method) + (f" ({words})" if words else "")
        settings = {key: own.get(key) for key in shown}
        series.append(Series(group[0].task, method, label, group[0].config, tuple(group), settings))
    methods = list(dict.fromkeys(one.method for one in series))
    return sorted(series, key=lambda one: (methods.index(one.method), *map(_by_value, one.settings.values())))


def _settings(config: Config, named: Sequence[str]) -> dict[str, Any]:
    """What tells series apart: all that is hashed but the seed, and of `ORIGIN` what is named."""
    found = config.identity("any", "any")
    for key in ("seed", *ORIGIN):
        del found[key]
    return found | {key: _origin(config, key) for key in named}


def _origin(config: Config, key: str) -> str | None:
    value = getattr(config, key)
    return None if value in (None, "auto") else value[:12]


def _differing(settings: Sequence[dict[str, Any]]) -> set[str]:
    keys = {key for own in settings for key in own}
    return {key for key in keys if len({json.dumps(own.get(key)) for own in settings}) > 1}


def _told_by(key: str, others: Sequence[str], settings: Sequence[dict[str, Any]]) -> bool:
    """Whether another key says the same: a method's own option may be taken from the task's."""
    having = [own for own in settings if key in own]
    return any(all(own.get(other) == own[key] for own in having) for other in others)


def _usual(values: Sequence[Any]) -> list[Any]:
    """The value that more than half have, as a list of one; [] if there is none."""
    text, count = Counter(map(json.dumps, values)).most_common(1)[0]
    return [json.loads(text)] if 2 * count > len(values) else []


def _by_value(value: Any) -> tuple:
    """Numbers by their value, then words."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, value, "") if is_number else (1, 0, str(value))


def _short(key: str, keys: Iterable[str]) -> str:
    """The last part of a dotted key, where no other key has the same."""
    name = key.rpartition(".")[2]
    return name if sum(other.rpartition(".")[2] == name for other in keys) == 1 else key


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_usual_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries of folders, whose names are in alphabetical order, in the order in which tasks and methods are told."""
    tasks, methods = list(TASKS), list(METHODS)

    def place(names: list[str], name: str) -> tuple:
        return (names.index(name), "") if name in names else (len(names), name)

    return sorted(entries, key=lambda e: (place(tasks, e.task), place(methods, e.method), e.config.seed))


def by_task(series: Iterable[Series]) -> dict[str, list[Series]]:
    """Series by task, in their order."""
    tasks: dict[str, list[Series]] = {}
    for one in series:
        tasks.setdefault(one.task, []).append(one)
    return tasks


def of_methods(entries: Sequence[Entry], methods: Sequence[str]) -> dict[str, list[Series]]:
    """The series of these methods by task. UserError: there are none."""
    found = by_task(one for one in all_series(entries) if one.method in methods)
    if not found:
        there = ", ".join(dict.fromkeys(entry.method for entry in entries))
        raise UserError(f"methods={', '.join(methods)}: none of them is among the runs, which are of {there}")
    return found


def metric_of(series: Sequence[Series]) -> str:
    """The metric that the task is judged by: "top1", "top5", "loss", or of an objective, e.g. "objective_error"."""
    config = series[0].config
    if config.task.baseline is not None:
        return config.task.baseline.metric
    return build_objective(config).metrics[0]
