"""What one setting does: runs along an axis, everything else as in a method's first runs.

Both are parts of a report, f(entries, **options). varies: the settings, by dotted key, that change together along the
axis; the first is the one that it is told by. A run is on it if it differs from the first run that the study lists of
its method (the usual one) in just these, or is that one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sasg.config import flat
from sasg.errors import UserError
from sasg.report.columns import ROUNDS, SKIPPED, OverSeeds, at_baseline, final, uplink_to_baseline
from sasg.report.curves import CODE
from sasg.report.judging import final_name
from sasg.report.names import method_name
from sasg.report.panels import gap, legend, line_of, percent_tick, title
from sasg.report.runs import Entry
from sasg.report.series import Series, all_series, by_task
from sasg.report.style import PAGE, Look, drawing, looks, new_figure
from sasg.report.writing import Table

EPOCHS = at_baseline("epochs", "Epochs", lambda totals: totals["epoch"], "{:.2f}".format, spread=True)
UPLINK = replace(uplink_to_baseline(CODE), key="uplink_bits", title="Uplink bits")
_PANELS = (
    (EPOCHS, "epochs to the baseline"),
    (UPLINK, "uplink bits to the baseline"),
    (SKIPPED, "skipped uploads"),
)
_SPAN = 8  # from this ratio of the largest to the smallest value on, the axis is logarithmic
_NEVER: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 4}
_USUAL: dict[str, Any] = {"color": "#777777", "linestyle": (0, (1, 1.5)), "linewidth": 1, "zorder": 1.5}
_NOTES = f"""Epochs, rounds and uplink bits (values, positions in {CODE} code, flags) are those up to the first
evaluation above the baseline accuracy; where a run never crosses it, the cell says so. Skipped and final accuracy are
of whole runs. All other settings are the task's.
"""


def table(entries: Sequence[Entry], varies: tuple[str, ...], caption: str) -> Table:
    """A row per method and point of the axis."""
    series = all_series(_along(entries, varies))
    return Table.of(caption, series, (EPOCHS, ROUNDS, UPLINK, SKIPPED, final(series)), _NOTES)


def figure(entries: Sequence[Entry], varies: tuple[str, ...], label: str) -> Figure:
    """Speed, bits, skipped uploads and accuracy along the axis: a row per task, a line per method.

    label: what the axis says.
    """
    series = [replace(one, label=method_name(one.method)) for one in all_series(_along(entries, varies))]
    tasks = by_task(series)
    with drawing():
        panels = (*_PANELS, (final(series), f"final {final_name(series)}"))
        drawn, axes = new_figure(PAGE, 1.6 * len(tasks) + 0.3, len(tasks), len(panels))
        appearance = looks(series)
        for (task, of_task), row in zip(tasks.items(), axes, strict=True):
            row[0].set_title(title(task, of_task), loc="left")
            if gap(row, task, of_task):
                continue
            usual = flat(_first(entries, task).config.identity("any", "any"))[varies[0]]
            for axis, (column, words) in zip(row, panels, strict=True):
                axis.axvline(usual, **_USUAL)
                _draw(axis, of_task, varies[0], column, appearance)
                axis.set_ylabel(words)
                axis.set_xlabel(label)
        others = [Line2D([], [], **_USUAL, label="the task's own")]
        if any(_never(one, column) for column, _ in panels for one in series):
            others.append(Line2D([], [], color="#333333", **_NEVER, label="does not reach the baseline"))
        legend(drawn, appearance.values(), others)
        return drawn


def _first(entries: Sequence[Entry], task: str) -> Entry:
    return next(entry for entry in entries if entry.task == task)


def _along(entries: Sequence[Entry], varies: Sequence[str]) -> list[Entry]:
    """The entries on the axis, of the methods that have more than their usual runs on it. UserError: there is none."""
    usual: dict[tuple[str, str], dict] = {}
    chosen: dict[tuple[str, str], list[Entry]] = {}
    moved = set()
    for entry in entries:
        key = entry.task, entry.method
        own = flat(entry.config.identity("any", "any"))
        first = usual.setdefault(key, own)
        differing = {name for name in own.keys() | first.keys() if own.get(name) != first.get(name)} - {"seed"}
        if not differing or differing == set(varies):
            chosen.setdefault(key, []).append(entry)
            moved |= {key} if differing else set()
    found = [entry for key, on_axis in chosen.items() if key in moved for entry in on_axis]
    if not found:
        raise UserError(f"varies={list(varies)}: no run of this study differs from its method's first in just these")
    return found


def _draw(axis: Axes, series: Sequence[Series], key: str, column: OverSeeds, appearance: dict[str, Look]) -> None:
    """A line per method with the range over seeds, and a cross above what never reaches the baseline."""
    for label, look in appearance.items():
        own = sorted((one for one in series if one.label == label), key=lambda one: one.setting(key))
        found = [(one.setting(key), _values(one, column)) for one in own]
        known = [(x, values) for x, values in found if values]
        means = [sum(values) / len(values) for _, values in known]
        below = [max(0.0, mean - min(values)) for mean, (_, values) in zip(means, known, strict=True)]
        above = [max(0.0, max(values) - mean) for mean, (_, values) in zip(means, known, strict=True)]
        line = line_of(look)
        axis.errorbar([x for x, _ in known], means, yerr=[below, above], elinewidth=0.7, capsize=1.5, **line)
        if never := [one.setting(key) for one in own if _never(one, column)]:
            axis.plot(never, [1.0] * len(never), color=look.color, transform=axis.get_xaxis_transform(), **_NEVER)
            axis.lines[-1].set_clip_on(False)
    values = sorted({one.setting(key) for one in series})
    if values[0] > 0 and values[-1] >= _SPAN * values[0]:
        axis.set_xscale("log")
    axis.set_xticks(values, [percent_tick(v) if key.endswith("density") else f"{v:g}" for v in values])
    axis.set_xticks([], minor=True)
    if column is SKIPPED or column.key == "final_accuracy":
        axis.yaxis.set_major_formatter(percent_tick)


def _values(one: Series, column: OverSeeds) -> list[float]:
    """By seed; none where a run that ended has no value."""
    values = list(column.by_seed(one).values())
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _never(one: Series, column: OverSeeds) -> bool:
    """Whether some of the runs that ended did not come to the baseline."""
    return column.at == "baseline" and column.statistics(one).num_missing > 0
