"""The frontier as figures: who is worth the bits, and who is fastest at which bandwidth. Parts of a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.report.columns import final, of_totals
from sasg.report.curves import CODE, over_runs
from sasg.report.frontier import PAPER, TASKS_STEP, contenders
from sasg.report.judging import baseline_name, rises
from sasg.report.names import metric_label, metric_text
from sasg.report.panels import AXIS_LABELS, Lines, gap, legend, letter, line_of, panel, percent_tick, title
from sasg.report.runs import Entry
from sasg.report.series import Series, metric_of
from sasg.report.style import PAGE, Look, drawing, looks, new_figure
from sasg.report.time_figures import BANDWIDTHS, coinciding, set_axes, times_to_baseline
from sasg.report.times import frame_with_seconds, links

_COSTS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "uplink_bits": lambda totals: uplink_bits(totals, CODE),
    "real_bits": lambda totals: uplink_bits(totals, CODE) + totals[f"downlink_unicast_bits_{CODE}"],
    "rounds": lambda totals: totals["rounds"],
}
_GREY, _PALE = "#8a8a8a", "#cccccc"
_LETTERS = 125  # of a line as wide as the page
_FRONT: dict[str, Any] = {"color": "#bbbbbb", "linewidth": 2.4, "zorder": 1.2}
_FAR = 4.0
"""A point is left out that is so many times further from the best than the median point."""


@dataclass(frozen=True)
class _Point:
    """A method after whole runs: means over seeds."""

    label: str
    costs: Mapping[str, float]
    value: float  # of what the task is judged by
    low: float
    high: float


def points(entries: Sequence[Entry], task: str) -> Figure:
    """What whole runs reach against what they cost in bits and rounds, a panel each; the Pareto front of the means.

    The methods on a front, and those of the paper, are in colour.
    """
    series = contenders(entries, task)
    with drawing():
        figure, axes = new_figure(PAGE, 2.75 * len(_COSTS) + 0.3, len(_COSTS), 1)
        axes = axes[:, 0]
        if gap(axes, task, series):
            return figure
        metric = metric_of(series)
        sign = 1 if rises(metric) else -1
        found = [point for one in series if (point := _point(one))]
        shown = _near(found, sign)
        fronts = _fronts(shown, sign)
        appearance = _in_colour(series, shown, fronts)
        labels = []
        for number, (axis, cost) in enumerate(zip(axes, _COSTS, strict=True)):
            axis.set_title(f"({letter(number)}) {title(task, series)}", loc="left")
            _draw_front(axis, [shown[place] for place in fronts[cost]], cost)
            labels.append([_draw_point(axis, point, cost, appearance) for point in shown])
            axis.set_xscale("log")
            axis.set(xlabel=f"{AXIS_LABELS[cost]} of the whole run", ylabel=metric_label(metric))
            axis.margins(x=0.12, y=0.12)
            if metric.startswith("top"):
                axis.yaxis.set_major_formatter(percent_tick)
        axes[-1].set_xlabel("\n".join([axes[-1].get_xlabel(), *_left_out(series, found, shown, metric)]))
        legend(figure, (), [Line2D([], [], **_FRONT, label="Pareto front of the means"), _grey("other methods")])
        figure.draw_without_rendering()  # the layout, on which it depends where labels have room
        for axis, own in zip(axes, labels, strict=True):
            _place_labels(axis, own)
        return figure


def curves(entries: Sequence[Entry], task: str, link: str) -> Figure:
    """What runs reach along the way against bits of the uplink, of both directions, and seconds, a panel each.

    link: of conf/link, under which seconds of communication are modelled. In colour are the methods that `points` has
    in colour.
    """
    series = contenders(entries, task)
    read = partial(frame_with_seconds, link=links()[link])
    with drawing():
        figure, axes = new_figure(PAGE, 2.5 * 3 + 0.3, 3, 1)
        axes = axes[:, 0]
        if gap(axes, task, series):
            return figure
        metric = metric_of(series)
        sign = 1 if rises(metric) else -1
        shown = _near([point for one in series if (point := _point(one))], sign)
        appearance = _in_colour(series, shown, _fronts(shown, sign))
        coloured = [one for one in series if one.label in appearance]
        for number, (axis, x) in enumerate(zip(axes, ("uplink_bits", "real_bits", "seconds"), strict=True)):
            axis.set_title(f"({letter(number)}) {title(task, series)}", loc="left")
            for one in series:
                if one.drawn and one.label not in appearance:
                    curve = over_runs([read(run) for run in one.drawn], x, metric)
                    axis.plot(curve["x"], curve["mean"], color=_GREY, linewidth=0.5, zorder=1.5)
            panel(axis, Lines(coloured, appearance, x, "accuracy", read))
        axes[-1].set_xlabel(f"{AXIS_LABELS['seconds']} ({link})")
        grey = Line2D([], [], color=_GREY, linewidth=0.6, label="other methods")
        legend(figure, appearance.values(), [grey], baseline_name(series))
        return figure


def _fronts(shown: Sequence[_Point], sign: int) -> dict[str, list[int]]:
    """By cost: the places of those that are on its front."""
    return {cost: front([(point.costs[cost], sign * point.value) for point in shown]) for cost in _COSTS}


def _in_colour(
    series: Sequence[Series], shown: Sequence[_Point], fronts: Mapping[str, Sequence[int]]
) -> dict[str, Look]:
    """The looks of those on a front and of the paper's methods."""
    coloured = {shown[place].label for places in fronts.values() for place in places}
    return _looks([one for one in series if one.label in coloured or one.method in PAPER])


def _looks(series: Sequence[Series]) -> dict[str, Look]:
    """By label; a method at the task's step size, beside the tuned one, differs from that in its kind of line alone."""
    found = looks({one.label: one for one in series if not one.label.endswith(TASKS_STEP)}.values())
    for one in series:
        if one.label.endswith(TASKS_STEP):
            found[one.label] = replace(found[one.label.removesuffix(TASKS_STEP)], label=one.label, line=":")
    return found


def _grey(label: str) -> Line2D:
    return Line2D([], [], color=_GREY, marker="o", markersize=2.5, linestyle="none", label=label)


def _point(one: Series) -> _Point | None:
    """None where not all runs finished, or there is none."""
    reached = final([one]).statistics(one)
    if reached.mean is None or reached.minimum is None or reached.maximum is None:
        return None
    costs = {key: of_totals(key, key, of).statistics(one).mean or 0.0 for key, of in _COSTS.items()}
    return _Point(one.label, costs, reached.mean, reached.minimum, reached.maximum)


def _near(found: Sequence[_Point], sign: int) -> list[_Point]:
    """Those that are worth a look: the others would press them together."""
    if not found:
        return []
    best = max(sign * point.value for point in found)
    distances = np.array([best - sign * point.value for point in found])
    farthest = max(_FAR * float(np.median(distances)), 1e-9)
    return [point for point, distance in zip(found, distances, strict=True) if distance <= farthest]


def front(values: Sequence[tuple[float, float]]) -> list[int]:
    """The places of (cost, gain) than which no other costs at most as much and gains at least as much, by cost."""
    order = sorted(range(len(values)), key=lambda place: (values[place][0], -values[place][1]))
    kept: list[int] = []
    for place in order:
        if not kept or values[place][1] > values[kept[-1]][1]:
            kept.append(place)
    return kept


def _draw_front(axis: Axes, on_front: Sequence[_Point], cost: str) -> None:
    axis.step([p.costs[cost] for p in on_front], [p.value for p in on_front], where="post", **_FRONT)


@dataclass(frozen=True)
class _Label:
    text: str
    x: float
    y: float
    color: str
    size: float


def _draw_point(axis: Axes, point: _Point, cost: str, appearance: Mapping[str, Look]) -> _Label:
    """A point with its range over seeds; returns what is to be written beside it."""
    look = appearance.get(point.label)
    color = look.color if look else _GREY
    marker: dict[str, Any] = {"marker": "o", "markersize": 2.5, "ecolor": _PALE}
    if look:
        marker = {"marker": look.marker, "markersize": 4.5, "zorder": 3}
    if point.label.endswith(TASKS_STEP):
        marker["fillstyle"] = "none"
    x = point.costs[cost]
    spread = np.maximum(0, [[point.value - point.low], [point.high - point.value]])  # a mean is rounded
    axis.errorbar([x], [point.value], yerr=spread, color=color, linestyle="none", elinewidth=0.6, **marker)
    return _Label(point.label, x, point.value, color, 6.0 if look else 4.8)


_OFFSETS = [(r * np.cos(a), r * np.sin(a)) for r in (5, 9, 14, 20, 28, 38) for a in np.arange(0, 2 * np.pi, np.pi / 6)]


def _place_labels(axis: Axes, labels: Sequence[_Label]) -> None:
    """Write labels beside their points, where they hide neither each other nor points, larger ones first."""
    pixels = axis.figure.dpi / 72
    at = axis.transData.transform([(label.x, label.y) for label in labels])
    taken = np.hstack([at - 2 * pixels, at + 2 * pixels])  # x0, y0, x1, y1 of the points, then of the labels
    panel = axis.bbox.extents
    for place in sorted(range(len(labels)), key=lambda i: (-labels[i].size, at[i][0], at[i][1])):
        label = labels[place]
        others = np.delete(taken, place, axis=0)
        boxes = [(offset, _box(at[place], offset, label, pixels)) for offset in _OFFSETS]
        inside = [
            (offset, box) for offset, box in boxes if (box[:2] >= panel[:2]).all() and (box[2:] <= panel[2:]).all()
        ]
        offset, box = min(inside or boxes, key=lambda item: (_hidden(item[1], others), np.hypot(*item[0])))
        taken = np.vstack([taken, box])
        side = "left" if offset[0] >= 0 else "right"
        align: dict[str, Any] = {"ha": side, "va": "center", "textcoords": "offset points", "zorder": 4}
        arrow: dict[str, Any] = {"arrowstyle": "-", "color": label.color, "linewidth": 0.35, "shrinkA": 0, "shrinkB": 1}
        far = arrow if np.hypot(*offset) > 8 else None
        text = axis.annotate(
            label.text,
            (label.x, label.y),
            offset,
            color=label.color,
            fontsize=label.size,
            arrowprops=far,
            **align,
        )
        text.set_in_layout(False)


def _box(at: np.ndarray, offset: tuple[float, float], label: _Label, pixels: float) -> np.ndarray:
    """About where the label would stand, in pixels: x0, y0, x1, y1."""
    width, height = 0.58 * label.size * len(label.text) * pixels, 1.1 * label.size * pixels
    x, y = at[0] + offset[0] * pixels, at[1] + offset[1] * pixels
    left = x if offset[0] >= 0 else x - width
    return np.array([left, y - height / 2, left + width, y + height / 2])


def _hidden(box: np.ndarray, others: np.ndarray) -> float:
    """The area that it shares with other boxes [n, 4]."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(np.clip(sides, 0, None).prod(axis=1).sum())


def _left_out(series: Sequence[Series], found: Sequence[_Point], shown: Sequence[_Point], metric: str) -> list[str]:
    """What the panels do not show, in lines."""
    far = [f"{point.label} {metric_text(metric, point.value)}" for point in found if point not in shown]
    known = {point.label for point in found}
    without = [f"{one.label} ({one.status})" for one in series if one.runs and one.label not in known]
    missing = [one.label for one in series if not one.runs]
    told = [("further away", far), ("without a mean", without), ("not run", missing)]
    return [line for words, names in told if names for line in wrap(f"{words}: {'; '.join(names)}", _LETTERS)]


def times(entries: Sequence[Entry]) -> Figure:
    """Modelled communication time to the baseline against the bandwidth of all links, with the winner at each.

    A panel per task: the winners and the paper's methods are in colour, the other methods that cross it grey.
    """
    tasks = {task: contenders(entries, task) for task in dict.fromkeys(entry.task for entry in entries)}
    with drawing():
        figure, (axes,) = new_figure(PAGE, 3.0, 1, len(tasks))
        found = {task: _times_of(series) for task, series in tasks.items()}
        winners = {label for times in found.values() for label in _winners(times)}
        coloured = [o for s in tasks.values() for o in s if o.label in winners or o.method in PAPER]
        appearance = _looks(coloured)
        for number, (axis, (task, series)) in enumerate(zip(axes, tasks.items(), strict=True)):
            axis.set_title(f"({letter(number)}) {title(task, series)}", loc="left")
            if gap((axis,), task, series):
                continue
            for label, times_of_one in found[task].items():
                look = appearance.get(label)
                line = line_of(look) | {"markevery": 4} if look else {"color": _GREY, "linewidth": 0.4, "zorder": 1.5}
                axis.plot(BANDWIDTHS, times_of_one, **line)
            set_axes(axis)
            _draw_winners(axis, _winners(found[task]), appearance)
            never = sum(bool(one.runs) and one.label not in found[task] for one in series)
            words = coinciding({label: t for label, t in found[task].items() if label in appearance})
            words += [f"{never} of {len(series)} do not cross the baseline with all runs"] if never else []
            axis.text(0.97, 0.97, "\n".join(words), transform=axis.transAxes, ha="right", va="top", fontsize=6)
        drawn = {label for times in found.values() for label in times}
        shown = [look for label, look in appearance.items() if label in drawn]
        legend(figure, shown, [Line2D([], [], color=_GREY, linewidth=0.6, label="other methods")])
        return figure


def _times_of(series: Sequence[Series]) -> dict[str, np.ndarray]:
    found = {one.label: times_to_baseline(one) for one in series}
    return {label: times.mean(axis=0) for label, times in found.items() if times is not None}


def _winners(times: Mapping[str, np.ndarray]) -> list[str]:
    """Who takes the least at each bandwidth."""
    return [min(times, key=lambda label: times[label][place]) for place in range(len(BANDWIDTHS))] if times else []


def _draw_winners(axis: Axes, winners: Sequence[str], appearance: Mapping[str, Look]) -> None:
    """A bar at the bottom, in the winners' colours, with their names."""
    step = BANDWIDTHS[1] / BANDWIDTHS[0]
    place = 0
    while place < len(winners):
        end = place
        while end + 1 < len(winners) and winners[end + 1] == winners[place]:
            end += 1
        left, right = BANDWIDTHS[place] / step**0.5, BANDWIDTHS[end] * step**0.5
        look = appearance[winners[place]]
        axis.axvspan(left, right, 0, 0.025, color=look.color, linewidth=0)
        at: dict[str, Any] = {"xycoords": axis.get_xaxis_transform(), "ha": "center", "va": "bottom", "fontsize": 5.5}
        axis.annotate(look.label, ((left * right) ** 0.5, 0.03), color=look.color, **at)
        place = end + 1
