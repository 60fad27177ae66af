"""What the panels of a figure are made of: lines with bands, the baseline, the legend, and gaps that say so."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from sasg.config import Baseline
from sasg.report.curves import frame, over_runs
from sasg.report.judging import rises
from sasg.report.names import metric_label, task_name
from sasg.report.runs import Run
from sasg.report.series import Series, metric_of
from sasg.report.style import Look
from sasg.training.progress import counted

AXIS_LABELS = {
    "rounds": "rounds (uploads)",
    "paper_bits": "uplink bits (32 per value)",
    "uplink_bits": "uplink bits (values, indices, flags)",
    "downlink_bits": "downlink bits (unicast)",
    "real_bits": "uplink + downlink bits",
    "iteration": "iteration",
    "training_loss": "training loss",
    "seconds": "modelled communication seconds",
}

BAND = 0.18  # opacity
_BASELINE = {"color": "#777777", "linestyle": (0, (1, 1.5)), "linewidth": 1, "zorder": 1.5}


@dataclass(frozen=True)
class Lines:
    """What a panel shows: y against x, from `read`(run), a line per series; "accuracy": what the task is judged by."""

    series: Sequence[Series]
    appearance: Mapping[str, Look]  # by label
    x: str
    y: str
    read: Callable[[Run], pd.DataFrame] = frame


def panel(axis: Axes, lines: Lines, words: bool = True) -> None:
    """Lines with the axes that suit them: see `draw`. words: tell the baseline's value."""
    metric = metric_of(lines.series)
    x, y = lines.x, metric if lines.y == "accuracy" else lines.y
    draw(axis, replace(lines, y=y))
    if "bits" in x or x == "seconds":
        axis.set_xscale("log")
    axis.set_xlabel(AXIS_LABELS.get(x, x))
    axis.set_ylabel(AXIS_LABELS.get(y, metric_label(y)))
    if y == metric:
        zoom_on_baseline(axis, lines.series, metric, words)
    elif y == "training_loss":
        log_y(axis)
    elif y.startswith("top"):
        axis.yaxis.set_major_formatter(percent_tick)


def draw(axis: Axes, lines: Lines) -> None:
    """A line with its band for each series that has runs, and what became of the others."""
    for one in lines.series:
        if one.drawn:
            curve = over_runs([lines.read(run) for run in one.drawn], lines.x, lines.y)
            draw_curve(axis, curve, lines.appearance[one.label])
    if words := [f"{one.label}: {told}" for one in lines.series if (told := _told(one))]:
        place = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "zorder": 5}
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
        axis.text(0.98, 0.03, "\n".join(words), fontsize=6, color="#aa0000", bbox=behind, **place)


def _told(one: Series) -> str:
    """What a line does not show of itself: nothing where all its runs that there are have finished."""
    if not one.runs:
        return one.missing
    diverged = sum(run.status == "diverged" for run in one.runs)
    return f"{diverged} of {len(one.runs)} diverged" if diverged else ""


def draw_curve(axis: Axes, curve: pd.DataFrame, look: Look) -> None:
    """What `over_runs` gives: the mean with a few markers, the range as a band."""
    axis.fill_between(curve["x"], curve["minimum"], curve["maximum"], color=look.color, alpha=BAND, linewidth=0)
    marks = np.unique(np.linspace(0, max(0, len(curve) - 1), 7).round().astype(int)).tolist()
    axis.plot(curve["x"], curve["mean"], markevery=marks, **line_of(look))


def line_of(look: Look) -> dict[str, Any]:
    """matplotlib's options for a look."""
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    return {"color": look.color, "linestyle": look.line, "marker": look.marker, "label": look.label, **edge}


def mark_baseline(axis: Axes, baseline: Baseline, words: bool = True) -> None:
    """A dotted line, and its value outside of the panel, where no curve strikes it through."""
    axis.axhline(baseline.value, **_BASELINE)
    if words:
        text = f"{baseline.value:g}" if baseline.accuracy is None else percent_tick(baseline.accuracy)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        axis.annotate(text, (1, baseline.value), (2, 0), fontsize=6, color="#555555", **place)


def zoom_on_baseline(axis: Axes, series: Sequence[Series], metric: str, words: bool = True) -> None:
    """Mark the baseline, and leave out the first steep rise or fall, in which all methods look alike.

    An objective, which falls by powers of ten, is on a logarithmic axis as a whole.
    """
    baselines = {one.config.task.baseline: None for one in series if one.config.task.baseline is not None}
    for baseline in baselines:
        mark_baseline(axis, baseline, words)
    if not rises(metric) and metric != "loss":
        axis.set_yscale("log")
        return
    curves = [over_runs([frame(run) for run in one.drawn], "rounds", metric)["mean"] for one in series if one.drawn]
    curves = [curve for curve in curves if len(curve)]
    steep, gentle = (0.08, 1.0) if rises(metric) else (0.0, 0.92)
    low = min((curve.quantile(steep) for curve in curves), default=0.0)
    high = max((curve.quantile(gentle) for curve in curves), default=1.0)
    for baseline in baselines:
        low, high = min(low, baseline.value - 0.01), max(high, baseline.value)
    margin = 0.06 * (high - low)
    if metric == "loss":
        axis.set_ylim(low - margin, high + 2 * margin)
        return
    axis.set_ylim(low - margin, min(1.0, high + 2 * margin))
    axis.yaxis.set_major_formatter(percent_tick)


def log_y(axis: Axes) -> None:
    """A logarithmic y-axis with plain numbers."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    low, high = axis.get_ylim()
    if high < 30 * low:  # too few powers of ten to read values from
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter("{x:g}")
    else:
        axis.yaxis.set_minor_formatter("")


def legend(figure: Figure, shown: Iterable[Look], others: Sequence[Line2D] = (), with_baseline: str = "") -> None:
    """One legend above all panels, in as many columns as fit; `others` after the methods, the baseline's line last.

    The figure grows by the rows that this adds.
    """
    handles = [*(Line2D([], [], **line_of(look)) for look in shown), *others]
    if with_baseline:
        handles.append(Line2D([], [], **{**_BASELINE, "label": with_baseline}))
    if not handles:
        return
    columns = len(handles) if sum(len(str(handle.get_label())) for handle in handles) < 70 else 3
    if len(handles) > 6:
        columns = 4
    options = {"loc": "outside upper center", "handlelength": 3.2, "columnspacing": 1.8}
    drawn = figure.legend(handles=handles, ncols=columns, **options)
    height = drawn.get_window_extent().height
    while columns > 1 and drawn.get_window_extent().width > figure.bbox.width:
        drawn.remove()
        columns -= 1
        drawn = figure.legend(handles=handles, ncols=columns, **options)
    figure.set_figheight(figure.get_figheight() + (drawn.get_window_extent().height - height) / figure.dpi)


def gap(axes: Iterable[Axes], task: str, series: Sequence[Series]) -> bool:
    """Whether there is nothing to draw; then the panels say so."""
    if any(one.drawn for one in series):
        return False
    words = sorted({one.missing for one in series if not one.runs} or {"no evaluation"})
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.set_facecolor("#f4f4f4")
        place = {"transform": axis.transAxes, "ha": "center", "va": "center"}
        text = f"{task_name(task)}: {', '.join(words)}\n(0 of {counted(sum(one.num_planned for one in series), 'run')})"
        axis.text(0.5, 0.5, text, color="#777777", **place)
    return True


def title(task: str, series: Sequence[Series]) -> str:
    """The task, and how many seeds are behind its lines (fewest and most)."""
    counts = sorted({len(one.drawn) for one in series if one.drawn})
    return f"{task_name(task)}, n = {'–'.join(map(str, counts))}" if counts else task_name(task)


def letter(number: int) -> str:
    """Of the panel with this number, from 0."""
    return "abcdefghijklmnopqrstuvwxyz"[number]


def percent_tick(share: float, position: float = 0) -> str:
    """0.98 is "98 %"."""
    return f"{round(100 * share, 6):g} %"
