"""Methods on sum objectives, as parts of a report: bits to a target, and how the objective falls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from sasg.cluster.ledger import uplink_bits
from sasg.errors import NothingFinished
from sasg.report.curves import Series, all_series, by_task, metric_of
from sasg.report.names import METRICS, metric_label, metric_text, task_name
from sasg.report.panels import gap, legend, line_of
from sasg.report.runs import Entry, Run
from sasg.report.style import PAGE, Look, drawing, looks, new_figure, save
from sasg.report.tables import Table

CODE = "delta"
"""The index code of uplink bits here: what an encoder really makes of positions."""

HEADER = ["Problem", "Method", "Iterations", "Rounds", "Components", "Uplink bits", "GD's bits / its", "At the end"]
_NOTES = """Up to the first evaluation below the target; components are the values that were uploaded, uplink bits all
that was: values ({bits} bits, fewer where they are quantised), positions ({code} code), norms and lengths, flags.
Where a method does not come below the target, the row counts its whole run, in brackets, and the last column says
how near it came. One seed.
"""


def write(entries: Sequence[Entry], folder: Path, file: str, reference: str = "gd") -> str:
    """Write FILE.csv, FILE.md and FILE.tex; returns what to print.

    reference: the method whose bits the others' are set against.
    """
    tasks = by_task(all_series(entries))
    rows = [_numbers(one) for series in tasks.values() for one in series]
    bits_of = {row["task"]: row["uplink_bits"] for row in rows if row["method"] == reference and row["reaches"]}
    for row in rows:
        row["ratio"] = bits_of[row["task"]] / row["uplink_bits"] if row["reaches"] and row["task"] in bits_of else None
    shown = [_cells(row, one) for row, one in zip(rows, (one for s in tasks.values() for one in s), strict=True)]
    targets = {task: series[0].config.task.baseline for task, series in tasks.items()}
    caption = "Uplink until " + ", ".join(
        f"{METRICS[baseline.metric]} < {baseline.target:g} ({task_name(task)})" for task, baseline in targets.items()
    )
    notes = _NOTES.format(bits=64 if entries[0].config.precision == "fp64" else 32, code=CODE)
    return Table(rows, HEADER, shown, caption, notes).write(folder, file)


def _numbers(one: Series) -> dict[str, Any]:
    """Of the series' first run: what it took to the target, or in all if it did not get there."""
    names = ("reaches", "status", "iterations", "rounds", "components", "uplink_bits", "final")
    found: dict[str, Any] = {"task": one.task, "method": one.method, **dict.fromkeys(names)}
    if not one.runs:
        return found | {"status": "not run"}
    summary = one.runs[0].summary
    crossing = summary["crossing"]
    totals = crossing or summary["totals"]
    return found | {
        "reaches": crossing is not None,
        "status": summary["status"],
        "iterations": (crossing or {"iteration": summary["iterations"]})["iteration"],
        "rounds": totals["rounds"],
        "components": totals["paper_bits"] // 32,
        "uplink_bits": uplink_bits(totals, CODE),
        "final": summary["final"][metric_of([one])],
    }


def _cells(row: dict[str, Any], one: Series) -> list[str]:
    cells = [task_name(row["task"]), one.label]
    if row["status"] == "not run":
        return [*cells, "not run", *[""] * 5]
    form = "{}" if row["reaches"] else "({})"
    counts = [form.format(f"{row[name]:,}") for name in ("iterations", "rounds", "components")]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
    end = metric_text(metric_of([one]), row["final"]) if row["status"] == "finished" else row["status"]
    return [*cells, *counts, form.format(f"{row['uplink_bits']:.2E}"), ratio, end]


def descent(entries: Sequence[Entry], folder: Path, file: str, methods: tuple[str, ...]) -> str:
    """The objective's error (or gradient) against iterations and against uplink bits, a row per problem.

    methods: those that are drawn. UserError: none of their runs is finished.
    """
    tasks = by_task(one for one in all_series(entries) if one.method in methods)
    if not any(one.runs for series in tasks.values() for one in series):
        raise NothingFinished(f"{folder / file}: no finished run to draw")
    with drawing():
        figure, axes = new_figure(PAGE, 1.75 * len(tasks) + 0.4, len(tasks), 2, sharey="row")
        for (task, series), (left, right) in zip(tasks.items(), axes, strict=True):
            left.set_title(f"{task_name(task)}, d = {_num_parameters(series)}", loc="left")
            if gap((left, right), task, series):
                continue
            appearance = looks(series)
            for one in series:
                for run in one.runs:
                    _draw(left, right, run, metric_of(series), appearance[one.label])
            _finish(left, right, series)
        for axis, label in zip(axes[-1], ("iteration", f"uplink bits (values, positions in {CODE} code, flags)")):
            axis.set_xlabel(label)
        legend(figure, [one for series in tasks.values() for one in series])
        return save(figure, folder, file)


def _num_parameters(series: Sequence[Series]) -> str:
    return str(next((run.summary["num_parameters"] for one in series for run in one.runs), "?"))


def _draw(left: Axes, right: Axes, run: Run, metric: str, look: Look) -> None:
    table = run.metrics
    line = {**line_of(look), "markevery": max(1, len(table) // 6)}
    left.plot(table["iteration"], table[metric], **line)
    right.plot(uplink_bits(table, CODE), table[metric], **line)


def _finish(left: Axes, right: Axes, series: Sequence[Series]) -> None:
    """Logarithmic axes from a little below the target up to where the runs begin."""
    baseline = series[0].config.task.baseline
    starts = [run.metrics[baseline.metric].iloc[0] for one in series for run in one.runs]
    left.set_yscale("log")
    left.set_ylim(baseline.target / 30, 3 * max(start for start in starts if start < 1e3))
    left.set_ylabel(metric_label(baseline.metric))
    right.set_xscale("log")
    for axis in (left, right):
        axis.axhline(baseline.target, color="#777777", linestyle=(0, (1, 1.5)), linewidth=0.9)
