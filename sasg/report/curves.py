"""Runs as curves: several seeds of one method on one task drawn as one line."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from sasg.cluster.ledger import uplink_bits
from sasg.config import Config
from sasg.report.names import method_name, task_name
from sasg.report.runs import Entry, Run
from sasg.training.run_folder import read_uploads

CODE = "log2"
"""The index code of "real" bits: the fewest whole bits that number the entries of a segment."""

TRIGGER_COLUMNS = ("threshold", "difference_min", "difference_mean", "difference_max")
"""The columns of the metrics that a trigger fills."""


@dataclass(frozen=True)
class Series:
    """The runs that differ in nothing but their seed; of these, the ones that have metrics."""

    task: str
    method: str
    label: str
    config: Config  # of the first seed
    runs: tuple[Run, ...]
    num_planned: int

    @property
    def status(self) -> str:
        """Whether there is anything to draw."""
        if not self.runs:
            return "not run"
        of_planned = "" if len(self.runs) == self.num_planned else f" of {self.num_planned}"
        return f"n = {len(self.runs)}{of_planned}"


def all_series(entries: Sequence[Entry]) -> list[Series]:
    """Entries by task, method and settings, in their order; where settings differ, the labels tell in what.

    The device is a setting where entries name both, as those of run folders do; a study leaves it to be chosen.
    """
    groups = _group(entries, settings)
    mixed = {key for key, group in groups.items() if {"cpu", "cuda"} <= {entry.config.device for entry in group}}

    def distinct(config: Config) -> dict[str, Any]:
        found = settings(config)
        return found | {"device": config.device} if _key(found) in mixed else found

    groups = _group(entries, distinct)
    kin: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in groups.values():
        kin.setdefault((group[0].task, group[0].method), []).append(flat(distinct(group[0].config)))
    series = []
    for group in groups.values():
        first = group[0]
        own, alike = flat(distinct(first.config)), kin[first.task, first.method]
        differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        suffix = f" ({', '.join(f'{key}={own[key]}' for key in differing)})" if differing else ""
        runs = tuple(entry.run for entry in group if entry.run and (entry.run.path / "metrics.csv").exists())
        label = method_name(first.method) + suffix
        series.append(Series(first.task, first.method, label, first.config, runs, len(group)))
    return series


def _group(entries: Sequence[Entry], told_apart_by: Callable[[Config], dict[str, Any]]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(_key(told_apart_by(entry.config)), []).append(entry)
    return groups


def _key(found: dict[str, Any]) -> str:
    return json.dumps(found, sort_keys=True)


def by_task(series: Iterable[Series]) -> dict[str, list[Series]]:
    """Series by task, in their order."""
    tasks: dict[str, list[Series]] = {}
    for one in series:
        tasks.setdefault(one.task, []).append(one)
    return tasks


def metric_of(series: Sequence[Series]) -> str:
    """The metric that the task is judged by: "top1", "top5", or of an objective, e.g. "objective_error"."""
    baseline = series[0].config.task.baseline
    return baseline.metric if baseline is not None else "top1"


def gap_text(task: str, series: Sequence[Series]) -> str:
    """What stands where there is nothing to draw."""
    return f"{task_name(task)}: not run\n(0 of {sum(one.num_planned for one in series)} runs)"


def frame(run: Run) -> pd.DataFrame:
    """A run's metrics and what follows from them, a row per evaluation.

    uplink_bits: values, indices and flags. downlink_bits: to every worker that receives something. real_bits: both.
    Indices are in `CODE`.
    """
    table = run.metrics
    table["uplink_bits"] = uplink_bits(table, CODE) if len(table) else []
    table["downlink_bits"] = table[f"downlink_unicast_bits_{CODE}"]
    table["real_bits"] = table["uplink_bits"] + table["downlink_bits"]
    return table


def over_runs(frames: Sequence[pd.DataFrame], x: str, y: str) -> pd.DataFrame:
    """y over runs (mean, minimum, maximum) at their mean x, at the iterations that all of them evaluated."""
    tables = [pd.DataFrame({"x": one[x], "y": one[y]}).set_index(one["iteration"]) for one in frames]
    by_iteration = pd.concat(tables).groupby(level=0)
    y_of = by_iteration["y"]
    columns = {"x": by_iteration["x"].mean(), "mean": y_of.mean(), "minimum": y_of.min(), "maximum": y_of.max()}
    return pd.DataFrame(columns)[by_iteration.size() == len(frames)]


def upload_shares(run: Run, num_bins: int) -> np.ndarray:
    """The share of a bin's iterations in which each worker uploaded, [M, bins]; bins of equal length, in order."""
    uploads = read_uploads(run.path / "uploads.npz")
    num_bins = max(1, min(num_bins, len(uploads)))
    edges = np.linspace(0, len(uploads), num_bins + 1).round().astype(int)
    return np.stack([uploads[a:b].mean(axis=0) for a, b in pairwise(edges)], axis=1)


def settings(config: Config) -> dict[str, Any]:
    """Equal for configurations that differ in nothing but their seed, the data's origin and the device."""
    found = config.identity("any", "any")
    del found["seed"], found["device"]
    return found


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
