"""Many seeds of the same methods: how far runs scatter, and where published means over few seeds lie among them.

Both are parts of a report, f(entries, **options). published: a table of results/paper, with the `rounds` to the
baseline as a mean over `group` seeds.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sasg.report.columns import (
    PAPER_BITS,
    ROUNDS,
    SKIPPED,
    Column,
    Given,
    OverSeeds,
    count,
    final,
    uplink_to_baseline,
)
from sasg.report.curves import CODE
from sasg.report.names import percent, task_name
from sasg.report.panels import BAND, gap, legend, letter, percent_tick
from sasg.report.published import published as published_numbers
from sasg.report.runs import Entry
from sasg.report.series import Series, all_series
from sasg.report.statistics import INTERVAL, INTERVAL_NOTE
from sasg.report.style import PAGE, Look, drawing, looks, new_figure
from sasg.report.writing import Row, Table

_NOTES = f"""Rounds up to the first evaluation above the baseline accuracy. As low: the share, of all groups of GROUP of
the seeds, whose mean is at most the published mean over GROUP seeds; counted, not sampled. A run that never crosses the
baseline is above every published mean.
{INTERVAL_NOTE}"""
_BITS = uplink_to_baseline(CODE)
_PUBLISHED: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 0.9}
_MEAN: dict[str, Any] = {"color": "#777777", "linewidth": 0.9}
_OF_GROUPS = 0.45  # opacity


def table(entries: Sequence[Entry], published: str, group: int = 5) -> Table:
    """A row per method over all seeds, beside the published mean; a section with a row per run."""
    series = all_series(entries)
    known = published_numbers(published)

    def theirs(one: Series) -> float | None:
        return _published(one, known)

    def share(one: Series) -> float | None:
        return share_as_low(group_means(_rounds(one), group), theirs(one))

    columns: list[Column] = [
        ROUNDS,
        Given("interval", INTERVAL, lambda one: ROUNDS.statistics(one).interval(count)),
        Given("range", "Range", _range),
        Given("published", "Published", theirs, count),
        Given("share_as_low", "As low", share, percent),
        _BITS,
        final(series),
        SKIPPED,
    ]
    caption = f"Rounds to the baseline over many seeds, and the published means over {group}"
    sections = (_runs(series),) if any(one.runs for one in series) else ()
    made = Table.of(caption, series, columns, _NOTES.replace("GROUP", str(group)), sections=sections)
    return replace(made, numbers=[_numbers(one, columns) for one in series])


def _numbers(one: Series, columns: Sequence[Column]) -> dict[str, Any]:
    """Of a method, for the CSV: an interval as two numbers, not as words."""
    of_rounds = ROUNDS.statistics(one)
    numbers = {"task": one.task, "method": one.method, "rounds": of_rounds.mean, **of_rounds.columns}
    for column in columns:
        if column.key not in ("rounds", "interval", "range"):
            numbers |= column.numbers(one)
    return numbers | {"n_planned": one.num_planned, "status": one.status}


def _range(one: Series) -> str | None:
    found = ROUNDS.statistics(one)
    if found.minimum is None or found.maximum is None:
        return None
    return f"{count(found.minimum)} to {count(found.maximum)}"


def _published(one: Series, known: dict[tuple[str, str], dict[str, str]]) -> float | None:
    text = known.get((one.task, one.method), {}).get("rounds")
    return float(text) if text else None


def _rounds(one: Series) -> list[float]:
    """To the baseline, of each run that ended; infinite where it never crosses."""
    return [np.inf if value is None else value for value in ROUNDS.by_seed(one).values()]


def share_as_low(means: np.ndarray, bound: float | None) -> float | None:
    """The share of the means that are at most `bound`; None without either."""
    return float(np.mean(means <= bound)) if len(means) and bound is not None else None


def group_means(values: Sequence[float], group: int) -> np.ndarray:
    """The means of all groups of `group` of the values, ascending: 850,668 groups of 5 of 42."""
    return np.sort(np.fromiter(map(sum, combinations(values, group)), float)) / group


def _runs(series: Sequence[Series]) -> Table:
    """A row per run that ended."""
    quantities: list[OverSeeds] = [ROUNDS, PAPER_BITS, _BITS, final(series), SKIPPED]
    rows = []
    for one in series:
        by_seed = [column.by_seed(one) for column in quantities]
        for run in one.runs:
            seed = run.identity["seed"]
            found = {column.key: values[seed] for column, values in zip(quantities, by_seed, strict=True)}
            told = [_told(column, found[column.key]) for column in quantities]
            numbers = {"task": one.task, "method": one.method, "seed": seed, **found, "status": run.words}
            rows.append(Row((task_name(one.task), one.label, str(seed), *told, run.words), numbers))
    header = ("Task", "Method", "Seed", *(column.title for column in quantities), "Status")
    return Table("Each run", header, tuple(rows), "", name="runs")


def _told(column: OverSeeds, value: float | None) -> str:
    if value is None:
        return "never" if column.at == "baseline" else ""
    return percent(value) if column.key == "final_accuracy" else column.form(value)


def figure(entries: Sequence[Entry], published: str, group: int = 5) -> Figure:
    """The share of runs, and of means of groups of runs, that needed at most so many rounds; a panel per method."""
    series = all_series(entries)
    known = published_numbers(published)
    columns = min(len(series), 4)
    rows = -(-len(series) // columns)
    with drawing():
        drawn, axes = new_figure(PAGE, 1.9 * rows + 0.3, rows, columns, sharey=True)
        appearance = looks(series)
        for axis in axes.flat[len(series) :]:
            axis.set_axis_off()
        for number, (axis, one) in enumerate(zip(axes.flat, series, strict=False)):
            name = f"({letter(number)}) {one.label}, n = {len(one.runs)}"
            if gap((axis,), one.task, [one]):
                axis.set_title(name, loc="left")
                continue
            share = _draw(axis, one, appearance[one.label], group, _published(one, known))
            axis.set_title(name if share is None else f"{name}\nas low: {percent(share)} of groups", loc="left")
            axis.set_xlabel("thousand rounds to the baseline")
            axis.yaxis.set_major_formatter(percent_tick)
        for axis in axes[:, 0]:
            axis.set_ylabel("share that needed\nat most as many")
        dark: dict[str, Any] = {"color": "#333333"}
        legend(
            drawn,
            (),
            [
                Line2D([], [], **dark, label="runs"),
                Line2D([], [], **dark, alpha=_OF_GROUPS, linewidth=2.2, label=f"means of all groups of {group} runs"),
                Line2D([], [], **_MEAN, label="mean (band: 95 % interval)"),
                Line2D([], [], **_PUBLISHED, label=f"published mean of {group}"),
            ],
        )
        return drawn


def _draw(axis: Axes, one: Series, look: Look, group: int, theirs: float | None) -> float | None:
    """Draw a method's panel; returns the share of groups as low as the published mean, where both are known."""
    found = ROUNDS.statistics(one)
    if found.mean is not None:
        axis.axvline(found.mean, **_MEAN)
    if found.low is not None and found.high is not None:
        axis.axvspan(found.low, found.high, color=_MEAN["color"], alpha=BAND, linewidth=0)
    values = _rounds(one)
    means = group_means(values, group)
    _draw_distribution(axis, np.sort(values), color=look.color)
    _draw_distribution(axis, means, color=look.color, alpha=_OF_GROUPS, linewidth=2.2)
    if theirs is not None:
        axis.axvline(theirs, **_PUBLISHED)
    axis.margins(x=0.08)
    axis.xaxis.set_major_formatter(lambda rounds, _: f"{rounds / 1000:g}")
    return share_as_low(means, theirs)


def _draw_distribution(axis: Axes, values: np.ndarray, **line: Any) -> None:
    """The share of the values, ascending, that are at most x, as far as they are finite; at up to 1,000 of them."""
    if len(values) == 0:
        return
    ranks = np.linspace(0, len(values), min(len(values), 1000) + 1).round().astype(int)
    at = np.append(values[:1], values)[ranks]  # the line begins at the smallest, with a share of 0
    known = np.isfinite(at)
    axis.step(at[known], ranks[known] / len(values), where="post", **line)
