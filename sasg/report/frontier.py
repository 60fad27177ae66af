"""All methods of a task by one ledger: which are worth their bits, rounds or seconds. Parts of a report.

A method is shown at the step size that was tuned for it, where there are such runs, else at the task's. The methods of
the SASG paper are shown at the task's as well, which is the paper's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sasg.report.columns import Column, Given, OverSeeds, count, final, scientific
from sasg.report.curves import CODE, frame
from sasg.report.judging import judged_by, rises
from sasg.report.names import method_name, metric_text, task_name
from sasg.report.runs import Entry, Run
from sasg.report.series import Series, all_series, metric_of
from sasg.report.time_figures import BANDWIDTHS, times_to_baseline
from sasg.report.tuning import tuned_methods, without_trials
from sasg.report.writing import Row, Table

PAPER = ("sgd", "sparse", "lasg", "sasg")
"""The methods of the SASG paper, which readers look for."""

TASKS_STEP = ", task's step"
"""What ends the label of a method that is also shown tuned."""

_NOTES = f"""Means over seeds, up to the first evaluation beyond LEVELS; never: no run gets
there, and where some do, the cell says how many. Uplink: values, positions in {CODE} code and flags. Both: with the
download of every worker. Tuned: the step size was chosen on training samples that were held out (see the table of
tuning); the others are at the task's. In the order of uplink bits to the last of them.
"""
_BANDWIDTH_NOTES = """Modelled seconds of communication to the baseline, uploads one after another, positions as int32:
no computation. Of the methods all of whose runs cross the baseline. Apart: each run of the winner takes less than
each of the next one, where both have several.
"""


@dataclass(frozen=True)
class _ToLevel(OverSeeds):
    """A quantity up to the first evaluation beyond a level."""

    def cell(self, one: Series) -> str:
        found = self.statistics(one)
        if found.n and found.num_missing == found.n:
            return "never"
        if found.num_missing:
            return f"{found.n - found.num_missing} of {found.n} cross"
        return super().cell(one)

    def numbers(self, one: Series) -> dict[str, Any]:
        found = self.statistics(one)
        return {self.key: found.mean, **{f"{self.key}_{name}": value for name, value in found.columns.items()}}


def contenders(entries: Sequence[Entry], task: str) -> list[Series]:
    """A series per method of a task; the paper's methods have two where they are tuned."""
    chosen = []
    of_task = without_trials([entry for entry in entries if entry.task == task])
    usual = {entry.method: entry.config.task.step_size for entry in reversed(of_task)}
    by_method: dict[str, list[Series]] = {}
    for one in all_series(of_task):
        by_method.setdefault(one.method, []).append(replace(one, label=method_name(one.method), settings={}))
    for method, series in by_method.items():
        tuned = [one for one in series if one.config.task.step_size != usual[method] and one.runs]
        untuned = [one for one in series if one.config.task.step_size == usual[method]]
        chosen += tuned or untuned
        if tuned and method in PAPER:
            chosen += [replace(one, label=f"{one.label}{TASKS_STEP}") for one in untuned]
    return chosen


def table(entries: Sequence[Entry], task: str, levels: tuple[float, ...]) -> Table:
    """The methods in the order of the uplink bits that the last level takes; and who wins at which bandwidth.

    levels: of what the task is judged by, e.g. accuracies as fractions.
    """
    series = contenders(entries, task)
    if not any(one.runs for one in series):
        return Table("", (), (), "")
    read = _reader()
    metric = metric_of(series)
    words = [_level_text(metric, level) for level in levels]
    to_level = partial(_to_level, read)
    ranked = to_level("uplink_bits", "Uplink", levels[-1], words[-1])
    tuned = tuned_methods(entries, task)

    def with_interval(level: float, word: str) -> tuple[OverSeeds, Given]:
        column = to_level("uplink_bits", "Uplink", level, word)
        key = column.key.replace("uplink_bits", "interval")
        return column, Given(key, f"Interval ({word})", lambda one: column.statistics(one).interval(scientific))

    columns: list[Column] = [
        Given("step_size", "Step size", lambda one: one.config.task.step_size, "{:g}".format),
        Given("tuned", "Tuned", lambda one: "yes" if _is_tuned(one, tuned) else "no"),
        *(column for level, word in zip(levels, words, strict=True) for column in with_interval(level, word)),
        to_level("real_bits", "Both", levels[-1], words[-1]),
        to_level("rounds", "Rounds", levels[-1], words[-1], count),
        (last := final(series)),
    ]
    series.sort(key=lambda one: _place(one, ranked, last))
    paper = ("Method", *(c.title for c in columns if isinstance(c, _ToLevel)), last.title)
    caption = f"{task_name(task)}: bits and rounds of every method"
    notes = _NOTES.replace("LEVELS", " or ".join(words))
    winners = _winners(series)
    made = Table.of(caption, series, columns, notes, sections=(winners,) if winners.rows else (), paper=paper)
    return replace(made, numbers=[_without_words(row) for row in made.rows])


def _without_words(row: Row) -> dict[str, Any]:
    """For the CSV, where an interval is two numbers."""
    return {key: value for key, value in row.numbers.items() if not key.startswith("interval")}


def _is_tuned(one: Series, tuned: set[str]) -> bool:
    return one.method in tuned and not one.label.endswith(TASKS_STEP)


def _level_text(metric: str, level: float) -> str:
    """A level in as few digits as it has: "95 %", "2.55"."""
    return f"{level:g}" if metric == "loss" else metric_text(metric, level).replace(".00", "")


def _place(one: Series, ranked: OverSeeds, last: OverSeeds) -> tuple[int, float]:
    """Those that all cross by their bits, then those that cross at times, then by what they come to; the rest last."""
    found = ranked.statistics(one)
    final_mean = last.statistics(one).mean
    crossed = found.n - found.num_missing
    if found.mean is not None:
        return 0, found.mean
    if crossed:
        return 1, -crossed / found.n
    if final_mean is not None:
        return 2, -final_mean if rises(metric_of([one])) else final_mean
    return (3, 0.0) if found.n else (4, 0.0)  # without a mean, as some diverged; not run


def _reader() -> Callable[[Run], pd.DataFrame]:
    """`frame`, which reads each run once."""
    known: dict[Any, pd.DataFrame] = {}

    def read(run: Run) -> pd.DataFrame:
        if run.path not in known:
            known[run.path] = frame(run)
        return known[run.path]

    return read


def _to_level(
    read: Callable[[Run], pd.DataFrame],
    quantity: str,
    title: str,
    level: float,
    words: str,
    form: Callable[[float], str] = scientific,
) -> _ToLevel:
    def of(run: Run) -> float | None:
        if not run.has_rows:
            return None
        rows = read(run)
        metric = judged_by(run)
        beyond = rows[rows[metric] > level] if rises(metric) else rows[rows[metric] < level]
        return None if beyond.empty else float(beyond[quantity].iloc[0])

    return _ToLevel(f"{quantity}_to_{level:g}", f"{title} to {words}", of, form, "baseline")


def _winners(series: Sequence[Series]) -> Table:
    """Who takes the least modelled time to the baseline at each bandwidth, and who comes next; no rows without both."""
    times = {one.label: found for one in series if (found := times_to_baseline(one)) is not None}
    rows = []
    for place, bandwidth in enumerate(BANDWIDTHS if len(times) > 1 else ()):
        of_each = {label: runs[:, place] for label, runs in times.items()}
        first, second = sorted(of_each, key=lambda label: of_each[label].mean())[:2]
        seconds = [float(of_each[label].mean()) for label in (first, second)]
        values = (first, seconds[0], second, seconds[1], _apart(of_each[first], of_each[second]))
        keys = ("winner", "seconds", "next", "next_seconds", "apart")
        told = (value if isinstance(value, str) else f"{value:,.4g}" for value in values)
        rows.append(Row((f"{bandwidth:.1E}", *told), {"bits_per_second": bandwidth, **dict(zip(keys, values))}))
    header = ("Bandwidth, bit/s", "Winner", "Seconds", "Next", "Seconds", "Apart")
    return Table("The winner at each bandwidth", header, tuple(rows), _BANDWIDTH_NOTES, name="bandwidth")


def _apart(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Whether each of our runs takes less than each of theirs."""
    if min(len(ours), len(theirs)) < 2:
        return "one run"
    return "yes" if ours.max() < theirs.min() else "no"
