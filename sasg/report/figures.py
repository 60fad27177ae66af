"""Figures from run folders, as parts of a report: f(entries, **options) -> Figure.

A line is the mean over the seeds, its band their range. What was not run leaves a panel that says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sasg.errors import UserError
from sasg.problem.evaluation import OWN_STATISTICS
from sasg.report.curves import frame, upload_shares
from sasg.report.judging import baseline_name
from sasg.report.names import family, method_name, task_name
from sasg.report.panels import AXIS_LABELS, BAND, Lines, draw, gap, legend, letter, log_y, panel, percent_tick, title
from sasg.report.runs import Entry, Run
from sasg.report.series import Series, all_series, by_task, metric_of, of_methods
from sasg.report.style import COLUMN, PAGE, Look, drawing, looks, new_figure
from sasg.report.times import frame_with_seconds, link_of

_SHARE = "share of iterations\nwith an upload"
_MOST_LINES = 8
"""In one panel; more are told apart in several."""


def accuracy(entries: Sequence[Entry]) -> Figure:
    """Test accuracy against rounds and against real uplink bits, a row per task."""
    return accuracy_by_cost(entries, ("rounds", "uplink_bits"))


def accuracy_by_cost(
    entries: Sequence[Entry], costs: tuple[str, ...] = ("rounds", "uplink_bits", "downlink_bits")
) -> Figure:
    """Test accuracy against several costs, a row of panels per task."""
    tasks = by_task(all_series(entries))
    with drawing():
        figure, axes = new_figure(PAGE, 2.2 * len(tasks) + 0.4, len(tasks), len(costs), sharey="row")
        appearance = _looks(tasks)
        for (task, series), row in zip(tasks.items(), axes, strict=True):
            row[0].set_title(title(task, series), loc="left")
            if gap(row, task, series):
                continue
            for number, (axis, cost) in enumerate(zip(row, costs, strict=True)):
                panel(axis, Lines(series, appearance, cost, "accuracy"), words=axis is row[-1])
                if number:
                    axis.set_ylabel("")
        return _with_legend(figure, tasks, appearance)


def lines(entries: Sequence[Entry], x: str = "rounds", y: str = "accuracy", link: str | None = None) -> Figure:
    """Any column against any other one, a panel per task; "accuracy" is the one that the task is judged by.

    Where a task has many series, a panel per method, or per value of the settings that have the fewest.
    link: of conf/link; there is a column "seconds" then, of communication. UserError: there is no such column.
    """
    tasks = by_task(all_series(entries))
    read = partial(frame_with_seconds, link=link_of(link)) if link else frame
    facets = [(task, words, part) for task, series in tasks.items() for words, part in _facets(series)]
    columns = min(len(facets), 3)
    rows = -(-len(facets) // columns)
    with drawing():
        width = max(COLUMN, min(PAGE, 2.6 * columns))
        figure, axes = new_figure(width, 2.3 * rows + 0.3, rows, columns)
        appearance = looks(one for _, _, part in facets for one in part)
        for axis in axes.flat[len(facets) :]:
            axis.set_axis_off()
        for axis, (task, words, part) in zip(axes.flat, facets, strict=False):
            axis.set_title("\n".join(filter(None, [title(task, part), words])), loc="left")
            if gap((axis,), task, part):
                continue
            column = metric_of(part) if y == "accuracy" else y
            known = list(read(next(one for one in part if one.drawn).drawn[0]))
            if missing := {x, column} - set(known):
                told = f"{', '.join(sorted(missing))}: no column of the metrics of {task}"
                raise UserError(f"{told}; choose from accuracy, {', '.join(known)}")
            panel(axis, Lines(part, appearance, x, column, read))
            if x == "seconds":
                axis.set_xlabel(f"{AXIS_LABELS[x]} ({link})")
        return _with_legend(figure, tasks, appearance)


def _facets(series: Sequence[Series]) -> list[tuple[str, list[Series]]]:
    """Series in groups of few enough for a panel, and what each group has in common.

    Then the labels tell what is left: equal ones in several panels have one look.
    """
    varying = [key for key in series[0].settings if len({str(one.setting(key)) for one in series}) > 1]
    varying.sort(key=lambda key: len({str(one.setting(key)) for one in series}))
    splits: list[Callable[[Series], str]] = [lambda one: method_name(one.method)]
    splits += [partial(_word, key=key) for key in varying[:-1]]
    groups = [("", list(series))]
    used = 0
    while used < len(splits) and max(len(part) for _, part in groups) > _MOST_LINES:
        groups = [group for words, part in groups for group in _split(words, part, splits[used])]
        used += 1
    left = varying[max(0, used - 1) :] if used else []
    return [(words, [_with_label(one, left) for one in part]) for words, part in groups]


def _split(words: str, part: Sequence[Series], by: Callable[[Series], str]) -> list[tuple[str, list[Series]]]:
    values = dict.fromkeys(map(by, part))
    return [(", ".join(filter(None, [words, v])), [one for one in part if by(one) == v]) for v in values]


def _with_label(one: Series, keys: Sequence[str]) -> Series:
    words = [_word(one, key) for key in keys if one.setting(key) is not None]  # of what the method has
    return replace(one, label=", ".join(words)) if words else one


def _word(one: Series, key: str) -> str:
    name, value = key.rpartition(".")[2], one.setting(key)
    return f"without {name}" if value is None else f"{name}={value}"


def accuracy_and_loss(entries: Sequence[Entry]) -> Figure:
    """Figure 2: test accuracy (above) and training loss (below) against rounds, a column per task."""
    return _columns_of_tasks(entries, (("rounds", "accuracy"), ("rounds", "training_loss")))


def real_bits(entries: Sequence[Entry]) -> Figure:
    """Accuracy against real bits: uplink with indices and flags (above), and with every worker's download (below)."""
    return _columns_of_tasks(entries, (("uplink_bits", "accuracy"), ("real_bits", "accuracy")))


def _columns_of_tasks(entries: Sequence[Entry], rows: tuple[tuple[str, str], tuple[str, str]]) -> Figure:
    """A column per task, and in it a panel for each (x, y)."""
    tasks = by_task(all_series(entries))
    with drawing():
        figure, axes = new_figure(PAGE, 3.7, len(rows), len(tasks))
        appearance = _looks(tasks)
        for column, (task, series) in enumerate(tasks.items()):
            for row, (x, y) in enumerate(rows):
                axis = axes[row, column]
                number = letter(column + row * len(tasks))
                axis.set_title(f"({number}) {task_name(task) if row else title(task, series)}", loc="left")
                if not gap((axis,), task, series):
                    panel(axis, Lines(series, appearance, x, y))
        return _with_legend(figure, tasks, appearance)


def densities(entries: Sequence[Entry]) -> Figure:
    """Figure 4: accuracy (above) and loss (below) against rounds, SASG beside Sparse, a column per density."""
    series = all_series(entries)
    levels = sorted({_density(one) for one in series})
    appearance = {one.label: _family_look(one) for one in series}
    with drawing():
        figure, axes = new_figure(PAGE, 3.5, 2, len(levels), sharex=True, sharey="row")
        for column, level in enumerate(levels):
            part = [one for one in series if _density(one) == level]
            above, below = axes[:, column]
            above.set_title(f"({letter(column)}) density {percent_tick(level)}", loc="left")
            below.set_title(f"({letter(column + len(levels))})", loc="left")
            if gap((above, below), part[0].task, part):
                continue
            for axis, y in ((above, "accuracy"), (below, "training_loss")):
                panel(axis, Lines(part, appearance, "rounds", y), words=level == levels[-1])
                axis.set_ylabel("" if column else f"{title(part[0].task, part)}\n{axis.get_ylabel()}")
            above.set_xlabel("")
        _share_limits(axes)
        shown = {look.label: look for look in appearance.values()}
        legend(figure, shown.values(), with_baseline=baseline_name(series))
        return figure


def _family_look(one: Series) -> Look:
    """A variant's is that of the method it belongs to."""
    base = replace(one, method=family(one.method), label=method_name(family(one.method)))
    return looks([base])[base.label]


def _share_limits(axes: np.ndarray) -> None:
    """Of rows that share an axis each panel has set its own limits: the widest show all lines."""
    for row in axes:
        shown = [axis for axis in row if axis.lines]
        if shown:
            limits = [axis.get_ylim() for axis in shown]
            row[0].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def accuracy_by_source(entries: Sequence[Entry], sources: tuple[str, ...]) -> Figure:
    """Figure 5: mean accuracy, the accuracy on each source's own test set, and training loss, against rounds.

    In a second row with each source's own BatchNorm statistics, where all runs have them.
    """
    series = all_series(entries)
    task = series[0].task
    shared = {"top1": "mean top-1 accuracy"}
    shared |= {f"top1_{source}": f"{task_name(source)} top-1 accuracy" for source in sources}
    own = {f"{y}{OWN_STATISTICS}": f"{label},\nown statistics" for y, label in shared.items()}
    drawn = [run for one in series for run in one.drawn]
    rows = [shared, own] if all(set(own) <= set(run.metrics) for run in drawn) else [shared]
    with drawing():
        figure, places = new_figure(PAGE, 2.1 * len(rows), len(rows), len(shared) + 1)
        appearance = looks(series)
        loss = _merged(figure, places[:, -1])
        filled = zip(places, rows, strict=True)
        panels = [(axis, y, label) for row, names in filled for axis, (y, label) in zip(row, names.items())]
        for number, (axis, y, label) in enumerate([*panels, (loss, "training_loss", "training loss")]):
            axis.set_title(f"({letter(number)}) {title(task, series) if number == 0 else ''}", loc="left")
            if gap((axis,), task, series):
                continue
            draw(axis, Lines(series, appearance, "rounds", y))
            axis.set_xlabel("rounds")
            axis.set_ylabel(label)
            if y == "training_loss":
                log_y(axis)
            else:
                axis.yaxis.set_major_formatter(percent_tick)
        legend(figure, appearance.values())
        return figure


def _merged(figure: Figure, column: np.ndarray) -> Axes:
    """One panel in the place of a column of them."""
    grid = column[0].get_subplotspec().get_gridspec()
    for axis in column:
        axis.remove()
    return figure.add_subplot(grid[:, -1])


def uploads(entries: Sequence[Entry], methods: tuple[str, ...] = ("lasg", "sasg"), bins: int = 60) -> Figure:
    """The share of each worker's iterations with an upload, along the training: a heat map per task and series."""
    tasks = of_methods(entries, methods)
    num_rows = max(map(len, tasks.values()))
    with drawing():
        figure, axes = new_figure(PAGE, 1.25 * num_rows + 0.5, num_rows, len(tasks))
        image = None
        for number, (axis, one) in enumerate(_grid(axes, tasks)):
            axis.set_title(f"({letter(number)}) {task_name(one.task)}, {one.label}, {_n(one)}", loc="left")
            if gap((axis,), one.task, [one]):
                continue
            shares = np.mean([upload_shares(run, bins) for run in one.drawn], axis=0)
            epochs = one.drawn[0].metrics["epoch"].iloc[-1]
            image = axis.imshow(
                shares,
                aspect="auto",
                extent=(0, epochs, len(shares) + 0.5, 0.5),
                cmap="cividis",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            axis.grid(False)
            axis.set_yticks(range(1, len(shares) + 1, 3))
            axis.set_ylabel("worker")
            axis.set_xlabel("epoch")
        if image is not None:
            figure.colorbar(image, ax=axes, label=_SHARE, format=percent_tick, shrink=0.8, pad=0.01)
        return figure


def _grid(axes: np.ndarray, tasks: Mapping[str, Sequence[Series]]) -> list[tuple[Axes, Series]]:
    """A column per task and in it a panel per series, by rows; what is left over is switched off."""
    placed = []
    for row, panels in enumerate(axes):
        for axis, series in zip(panels, tasks.values(), strict=True):
            if row < len(series):
                placed.append((axis, series[row]))
            else:
                axis.set_axis_off()
    return placed


def _n(one: Series) -> str:
    return f"n = {len(one.drawn)}" if one.drawn else one.missing


_THRESHOLD, _DIFFERENCE = "#000000", "#009E73"  # no method's


def thresholds(entries: Sequence[Entry], methods: tuple[str, ...] = ("lasg", "sasg")) -> Figure:
    """What the trigger compares along one run: the threshold, and the workers' squared gradient differences."""
    tasks = of_methods(entries, methods)
    num_rows = max(map(len, tasks.values()))
    with drawing():
        figure, axes = new_figure(PAGE, 1.5 * num_rows + 0.4, num_rows, len(tasks))
        for number, (axis, one) in enumerate(_grid(axes, tasks)):
            seed = f", seed {one.drawn[0].identity['seed']}" if one.drawn else ""
            axis.set_title(f"({letter(number)}) {task_name(one.task)}, {one.label}{seed}", loc="left")
            if not gap((axis,), one.task, [one]):
                _draw_threshold(axis, _with_triggers(one.drawn[0]))
        handles = [
            Line2D([], [], color=_THRESHOLD, label="threshold (mean)"),
            Line2D([], [], color=_DIFFERENCE, linestyle="-.", label="squared difference (mean; band: range)"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return figure


def _with_triggers(run: Run) -> pd.DataFrame:
    table = frame(run)
    if "threshold" not in table:
        raise run.lacks("thresholds")
    return table


def _draw_threshold(axis: Axes, table: pd.DataFrame) -> None:
    table = table[table["threshold"].notna()]
    smallest = table["difference_min"].clip(lower=table["difference_mean"].min() * 1e-6)
    axis.fill_between(table["epoch"], smallest, table["difference_max"], color=_DIFFERENCE, alpha=BAND, linewidth=0)
    axis.plot(table["epoch"], table["difference_mean"], color=_DIFFERENCE, linestyle="-.")
    axis.plot(table["epoch"], table["threshold"], color=_THRESHOLD)
    axis.set_yscale("log")
    axis.set_xlabel("epoch")
    axis.set_ylabel("squared norm")


def _looks(tasks: Mapping[str, Sequence[Series]]) -> dict[str, Look]:
    return looks(one for series in tasks.values() for one in series)


def _with_legend(figure: Figure, tasks: Mapping[str, Sequence[Series]], appearance: Mapping[str, Look]) -> Figure:
    everything = [one for series in tasks.values() for one in series]
    legend(figure, appearance.values(), with_baseline=baseline_name(everything))
    return figure


def _density(one: Series) -> float:
    return one.config.algorithm["compressor"]["density"]
