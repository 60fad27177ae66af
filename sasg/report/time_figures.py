"""Figures of communication times, modelled from the ledger; what was measured is marked apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sasg.cluster.accounting.links import Link
from sasg.errors import UserError
from sasg.places import CONF
from sasg.report.curves import frame, over_runs
from sasg.report.judging import baseline_name
from sasg.report.names import metric_label
from sasg.report.panels import draw_curve, gap, legend, letter, line_of, title, zoom_on_baseline
from sasg.report.published import measured_by_method, published
from sasg.report.runs import Entry, Run
from sasg.report.series import Series, all_series, by_task, metric_of
from sasg.report.style import PAGE, Look, drawing, looks, new_figure
from sasg.report.times import link_of, seconds, seconds_to_baseline

MEASURED = CONF.parent / "results" / "table3" / "table3.csv"
"""Our Table III, where it was measured."""

BANDWIDTHS = np.geomspace(1e6, 1e11, 16)
"""Bits per second of every link, up and down."""

LATENCY = 0.0001
"""Seconds, one way."""

_MARK = {"color": "black", "markersize": 4, "fillstyle": "none", "linestyle": ""}
_MARKS = {
    "published": {**_MARK, "marker": "x", "label": "Table III, published"},
    "measured": {**_MARK, "marker": "D", "markersize": 6, "label": "Table III, measured"},
}
_ALIKE = 0.1
"""Lines that nowhere differ by more than this share look like one: over decades it is less than a line's width."""


def communication_time(entries: Sequence[Entry], task: str, link: str, measured: bool = False) -> Figure:
    """Figure 3: upload times of one task under a link of conf/link.

    (a) Seconds per 100 iterations, beside the published ones of Table III where the task has them, and with `measured`
    ours; (b) accuracy against time and (c) seconds per iteration along the training, for the methods that sparsify.
    """
    by_name = by_task(all_series(entries))
    if task not in by_name:
        raise UserError(f"task={task}: none of the runs is on it; they are on {', '.join(by_name)}")
    series = by_name[task]
    sparse = [one for one in series if "density" in one.config.algorithm.get("compressor", {})]
    timed = {one.label: [_with_seconds(run, link_of(link)) for run in one.drawn] for one in series}
    points = {"published": _published(task), "measured": measured_seconds() if measured else {}}
    points = {kind: values for kind, values in points.items() if values}
    with drawing():
        figure, ((left, middle, right),) = new_figure(PAGE, 2.3, 1, 3)
        appearance = looks(series)
        for number, axis in enumerate((left, middle, right)):
            axis.set_title(f"({letter(number)}) {title(task, series)}", loc="left")
        if not gap((left,), task, series):
            _draw_totals(left, series, timed, points, appearance)
            left.set_ylabel(f"upload seconds per 100 iterations\n({link}, modelled)")
        if not gap((middle, right), task, sparse):
            for one in sparse:
                if one.drawn:
                    draw_curve(middle, over_runs(timed[one.label], "seconds", metric_of(series)), appearance[one.label])
                    draw_curve(right, over_runs(timed[one.label], "iteration", "rate"), appearance[one.label])
            zoom_on_baseline(middle, sparse, metric_of(series))
            middle.set(xlabel="upload seconds (modelled)", ylabel=metric_label(metric_of(series)))
            right.set(xlabel="iteration", ylabel="upload ms per iteration\n(modelled)", ylim=(0, None))
        modelled = Line2D([], [], color="#333333", marker="o", linestyle="", label="modelled")
        marks = [Line2D([], [], **_MARKS[kind]) for kind in points]
        legend(figure, [appearance[one.label] for one in sparse], [modelled, *marks], baseline_name(series))
        return figure


def time_to_baseline(entries: Sequence[Entry], latency_seconds: float = LATENCY) -> Figure:
    """Modelled communication time to the baseline against the bandwidth of all links, a panel per task.

    Uploads one at a time, flags and downloads, up to the crossing; no computation. A line is the mean over the seeds.
    """
    tasks = by_task(all_series(entries))
    with drawing():
        figure, (axes,) = new_figure(PAGE, 2.3, 1, len(tasks))
        appearance = looks(one for series in tasks.values() for one in series)
        for number, (axis, (task, series)) in enumerate(zip(axes, tasks.items(), strict=True)):
            axis.set_title(f"({letter(number)}) {title(task, series)}", loc="left")
            if gap((axis,), task, series):
                continue
            times = {one.label: times_to_baseline(one, latency_seconds) for one in series if one.runs}
            times = {label: found.mean(axis=0) for label, found in times.items() if found is not None}
            for place, (label, found) in enumerate(times.items()):
                axis.plot(BANDWIDTHS, found, markevery=(place, 4), **line_of(appearance[label]))
            words = coinciding(times)
            if never := [one.label for one in series if one.runs and one.label not in times]:
                words.append(f"no mean, since not all runs\ncross the baseline: {', '.join(never)}")
            axis.text(0.97, 0.97, "\n".join(words), transform=axis.transAxes, fontsize=6, ha="right", va="top")
            set_axes(axis)
        legend(figure, appearance.values())
        return figure


def coinciding(times: Mapping[str, np.ndarray]) -> list[str]:
    """Of which lines one hides the other, in words."""
    labels = list(times)
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    words = f"within {_ALIKE:.0%}".replace("%", " %")
    return [f"{a} and {b} {words}" for a, b in pairs if np.abs(np.log(times[a] / times[b])).max() < _ALIKE]


def set_axes(axis: Axes) -> None:
    """For seconds against bandwidth."""
    axis.set(xscale="log", yscale="log", xlabel="bandwidth of each link, bit/s")
    axis.set_xlim(BANDWIDTHS[0] / 2, BANDWIDTHS[-1] * 2)
    axis.set_ylabel("communication seconds\nto the baseline (modelled)")


def times_to_baseline(one: Series, latency: float = LATENCY) -> np.ndarray | None:
    """Seconds to the baseline, [runs, BANDWIDTHS]; None unless there are runs and all cross it.

    Uploads come one at a time, so that the time is that of all latencies and that of all bits.
    """
    if not one.runs or not all(run.crossing for run in one.runs):
        return None
    of_latencies, of_bits = (
        np.array([[seconds_to_baseline(run, link)] for run in one.runs])
        for link in (Link(latency_seconds=latency), Link(1.0, 1.0))
    )
    return of_latencies + of_bits / BANDWIDTHS


def _with_seconds(run: Run, link: Link) -> pd.DataFrame:
    """A run's frame with `seconds`, the upload time so far, and `rate`, its milliseconds per iteration lately."""
    table = frame(run)
    times = seconds(table, link, run.identity["cluster"]["workers"])
    table["seconds"] = times["upload"] + times["flags"]
    since = table[["seconds", "iteration"]].diff().fillna(table[["seconds", "iteration"]])
    table["rate"] = 1000 * since["seconds"] / since["iteration"]
    return table


def _draw_totals(
    axis: Axes,
    series: Sequence[Series],
    timed: Mapping[str, Sequence[pd.DataFrame]],
    points: Mapping[str, Mapping[str, float]],
    appearance: Mapping[str, Look],
) -> None:
    """A point per method with the time of the whole training above it; marks of times from elsewhere.

    Points, not bars: a logarithmic axis has no floor that a bar could stand on.
    """
    for place, one in enumerate(series):
        if not one.drawn:
            words = {"transform": axis.get_xaxis_transform(), "rotation": 90, "ha": "center", "color": "#777777"}
            axis.text(place, 0.04, one.missing, **words)
            continue
        totals = np.array([table["seconds"].iloc[-1] for table in timed[one.label]])
        each = 100 * totals / [table["iteration"].iloc[-1] for table in timed[one.label]]
        axis.plot(place, each.mean(), marker="o", markersize=5, color=appearance[one.label].color, linestyle="")
        highest = max([each.mean(), *(values[one.method] for values in points.values() if one.method in values)])
        axis.text(place, highest * 1.5, f"{_duration(totals.mean())}\nin all", ha="center", va="bottom", fontsize=6)
    order = {one.method: place for place, one in enumerate(series)}
    for kind, values in points.items():
        placed = {order[method]: value for method, value in values.items() if method in order}
        axis.plot(list(placed), list(placed.values()), **_MARKS[kind])
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(low / 2, high * 5)
    axis.set_xlim(-0.5, len(series) - 0.5)
    axis.set_xticks(range(len(series)), [one.label for one in series])
    axis.grid(False, axis="x")


def _published(task: str) -> dict[str, float]:
    rows = published("table3").items()
    return {method: float(row["communication_seconds"]) for (of, method), row in rows if of == task}


def measured_seconds(path: Path = MEASURED) -> dict[str, float]:
    """Measured seconds per 100 iterations by method; nothing where nothing was measured."""
    return {method: float(row["communication_s_measured"]) for method, row in measured_by_method(path).items()}


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
