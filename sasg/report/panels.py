"""What the panels of a figure are made of: lines with bands, the baseline, the legend, and gaps that say so."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from sasg.report.curves import Series, frame, gap_text, over_runs
from sasg.report.names import task_name
from sasg.report.runs import Run
from sasg.report.style import Look, looks

AXIS_LABELS = {
    "rounds": "rounds (uploads)",
    "paper_bits": "uplink bits (values alone)",
    "uplink_bits": "uplink bits (values, indices, flags)",
    "downlink_bits": "downlink bits (unicast)",
    "real_bits": "uplink + downlink bits",
    "iteration": "iteration",
    "training_loss": "training loss",
    "seconds": "modelled communication seconds",
}

BAND = 0.18  # opacity


def draw(axis: Axes, series: Sequence[Series], x: str, y: str, read: Callable[[Run], pd.DataFrame] = frame) -> None:
    """A line with its band for each series that was run, and the names of the others; x and y from `read`(run)."""
    appearance = looks(series)
    for one in series:
        if one.runs:
            draw_curve(axis, over_runs([read(run) for run in one.runs], x, y), appearance[one.label])
    if missing := [one.label for one in series if not one.runs]:
        place = {"transform": axis.transAxes, "ha": "right", "va": "bottom"}
        axis.text(0.98, 0.03, f"not run: {', '.join(missing)}", fontsize=6, color="#aa0000", **place)


def draw_one(axis: Axes, one: Series, x: str, y: str, look: Look) -> None:
    """One series: y over the seeds at their mean x."""
    draw_curve(axis, over_runs([frame(run) for run in one.runs], x, y), look)


def draw_curve(axis: Axes, curve: pd.DataFrame, look: Look) -> None:
    """What `over_runs` gives: the mean with a few markers, the range as a band."""
    axis.fill_between(curve["x"], curve["minimum"], curve["maximum"], color=look.color, alpha=BAND, linewidth=0)
    marks = np.unique(np.linspace(0, max(0, len(curve) - 1), 7).round().astype(int)).tolist()
    axis.plot(curve["x"], curve["mean"], markevery=marks, **line_of(look))


def line_of(look: Look) -> dict[str, Any]:
    """matplotlib's options for a look."""
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.4}
    return {"color": look.color, "linestyle": look.line, "marker": look.marker, "label": look.label, **edge}


def zoom_on_baseline(axis: Axes, series: Sequence[Series], metric: str) -> None:
    """Mark the baseline, and leave out the first steep rise, in which all methods look alike.

    What falls towards its target, an objective, is on a logarithmic axis as a whole.
    """
    baseline = series[0].config.task.baseline
    if baseline is not None:
        axis.axhline(baseline.value, color="#777777", linestyle=(0, (1, 1.5)), linewidth=1)
        look = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "top", "fontsize": 6, "color": "#555555"}
        text = f"target {baseline.value:g}" if baseline.accuracy is None else f"baseline {_percent(baseline.accuracy)}"
        axis.text(0.995, baseline.value, text, **look)
    if not metric.startswith("top"):
        axis.set_yscale("log")
        return
    curves = [over_runs([frame(run) for run in one.runs], "rounds", metric)["mean"] for one in series if one.runs]
    low = min(curve.quantile(0.08) for curve in curves if len(curve))
    high = max(curve.max() for curve in curves if len(curve))
    if baseline is not None:
        low, high = min(low, baseline.accuracy - 0.01), max(high, baseline.accuracy)
    margin = 0.06 * (high - low)
    axis.set_ylim(low - margin, min(1.0, high + 2 * margin))
    axis.yaxis.set_major_formatter(_percent)


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


def legend(figure: Figure, series: Iterable[Series], others: Sequence[Line2D] = ()) -> None:
    """One legend above all panels, in as many columns as fit; `others` after the methods.

    The figure grows by the rows that this adds.
    """
    handles = [*(Line2D([], [], **line_of(look)) for look in looks(series).values()), *others]
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


def gap(axes: Sequence[Axes], task: str, series: Sequence[Series]) -> bool:
    """Whether there is nothing to draw; then the panels say so."""
    if any(one.runs for one in series):
        return False
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.set_facecolor("#f4f4f4")
        place = {"transform": axis.transAxes, "ha": "center", "va": "center"}
        axis.text(0.5, 0.5, gap_text(task, series), color="#777777", **place)
    return True


def title(task: str, series: Sequence[Series]) -> str:
    """The task, and how many seeds are behind its lines (fewest and most)."""
    counts = sorted({len(one.runs) for one in series if one.runs})
    return f"{task_name(task)}, n = {'–'.join(map(str, counts))}" if counts else task_name(task)


def letter(number: int) -> str:
    """Of the panel with this number, from 0."""
    return "abcdefghijklmnopqrstuvwxyz"[number]


def _percent(share: float, position: int = 0) -> str:
    return f"{round(100 * share, 6):g} %"
