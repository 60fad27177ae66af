"""Figures from run folders, as parts of a report: f(entries, folder, file, **options) -> what to print.

A line is the mean over the seeds, its band their range. What was not run leaves a panel that says so.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sasg.errors import NothingFinished, UserError
from sasg.problem.problem import OWN_STATISTICS
from sasg.report.curves import CODE, Series, all_series, by_task, frame, metric_of, upload_shares
from sasg.report.names import family, metric_label, task_name
from sasg.report.panels import (
    AXIS_LABELS,
    BAND,
    draw,
    draw_one,
    gap,
    legend,
    letter,
    log_y,
    title,
    zoom_on_baseline,
)
from sasg.report.runs import Entry
from sasg.report.style import COLUMN, PAGE, Look, drawing, new_figure, save
from sasg.report.times import frame_with_seconds, links

_MARKERS = "osD^v<>p"


def accuracy(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Test accuracy against rounds and against real uplink bits, a row per task.

    UserError: none of the runs is finished.
    """
    tasks = by_task(all_series(entries))
    if not any(entry.run for entry in entries):
        raise NothingFinished(f"{folder / file}: no finished run to draw")
    with drawing():
        figure, axes = new_figure(PAGE, 2.3 * len(tasks) + 0.3, len(tasks), 2, sharey="row")
        for (task, series), (left, right) in zip(tasks.items(), axes, strict=True):
            if gap((left, right), task, series):
                continue
            metric = metric_of(series)
            for axis, x in ((left, "rounds"), (right, "uplink_bits")):
                draw(axis, series, x, metric)
                axis.set_xlabel(AXIS_LABELS[x])
            zoom_on_baseline(left, series, metric)
            right.set_xscale("log")
            left.set_ylabel(metric_label(metric))
            left.set_title(title(task, series), loc="left")
        legend(figure, [one for series in tasks.values() for one in series])
        return save(figure, folder, file)


def accuracy_by_cost(
    entries: Sequence[Entry],
    folder: Path,
    file: str,
    costs: tuple[str, ...] = ("rounds", "uplink_bits", "downlink_bits"),
) -> str:
    """Test accuracy against several costs, a row of panels per task."""
    tasks = by_task(all_series(entries))
    with drawing():
        figure, axes = new_figure(PAGE, 2.2 * len(tasks) + 0.5, len(tasks), len(costs), sharey="row")
        for (task, series), row in zip(tasks.items(), axes, strict=True):
            row[0].set_title(title(task, series), loc="left")
            if gap(row, task, series):
                continue
            for axis, cost in zip(row, costs, strict=True):
                draw(axis, series, cost, metric_of(series))
                axis.set_xlabel(AXIS_LABELS.get(cost, cost))
                if "bits" in cost:
                    axis.set_xscale("log")
            zoom_on_baseline(row[0], series, metric_of(series))
            row[0].set_ylabel(metric_label(metric_of(series)))
        legend(figure, [one for series in tasks.values() for one in series])
        return save(figure, folder, file)


def lines(
    entries: Sequence[Entry], folder: Path, file: str, x: str = "rounds", y: str = "accuracy", link: str | None = None
) -> str:
    """Any column against any other one, a panel per task; "accuracy" is the one that the task is judged by.

    link: of conf/link; there is a column "seconds" then, of communication.
    """
    tasks = by_task(all_series(entries))
    read = partial(frame_with_seconds, link=links()[link]) if link else frame
    with drawing():
        figure, (axes,) = new_figure(max(COLUMN, min(PAGE, 2.6 * len(tasks))), 2.6, 1, len(tasks))
        for axis, (task, series) in zip(axes, tasks.items(), strict=True):
            axis.set_title(title(task, series), loc="left")
            if gap((axis,), task, series):
                continue
            column = metric_of(series) if y == "accuracy" else y
            if missing := {x, column} - set(read(next(one for one in series if one.runs).runs[0])):
                raise UserError(f"{', '.join(sorted(missing))}: no column of {task}'s metrics")
            draw(axis, series, x, column, read)
            axis.set_xlabel(f"{AXIS_LABELS.get(x, x)}{f' ({link})' if x == 'seconds' else ''}")
            axis.set_ylabel(AXIS_LABELS.get(column, metric_label(column)))
            if "bits" in x or x == "seconds":
                axis.set_xscale("log")
            if column == metric_of(series):
                zoom_on_baseline(axis, series, column)
            elif y == "training_loss":
                log_y(axis)
        legend(figure, [one for series in tasks.values() for one in series])
        return save(figure, folder, file)


def accuracy_and_loss(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Figure 2: test accuracy (above) and training loss (below) against rounds, a column per task."""
    tasks = by_task(all_series(entries))
    with drawing():
        figure, axes = new_figure(PAGE, 3.7, 2, len(tasks))
        for column, (task, series) in enumerate(tasks.items()):
            above, below = axes[:, column]
            above.set_title(f"({letter(column)}) {title(task, series)}", loc="left")
            below.set_title(f"({letter(column + len(tasks))}) {task_name(task)}", loc="left")
            if gap((above, below), task, series):
                continue
            metric = metric_of(series)
            draw(above, series, "rounds", metric)
            zoom_on_baseline(above, series, metric)
            above.set_ylabel(metric_label(metric))
            draw(below, series, "rounds", "training_loss")
            log_y(below)
            below.set_ylabel("training loss")
            below.set_xlabel(AXIS_LABELS["rounds"])
        legend(figure, [one for series in tasks.values() for one in series])
        return save(figure, folder, file)


def densities(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Figure 4: accuracy and loss against rounds for several densities, SASG (solid) beside Sparse (dashed)."""
    series = all_series(entries)
    task = series[0].task
    levels = sorted({_density(one) for one in series})
    colors = matplotlib.colormaps["cividis"](np.linspace(0.0, 0.85, len(levels)))
    with drawing():
        figure, axes = new_figure(PAGE, 2.5, 1, 2)
        for number, (axis, y) in enumerate(zip(axes[0], (metric_of(series), "training_loss"), strict=True)):
            axis.set_title(f"({letter(number)}) {title(task, series)}", loc="left")
            if gap((axis,), task, series):
                continue
            for one in series:
                level = levels.index(_density(one))
                line = "-" if family(one.method) == "sasg" else "--"
                draw_one(axis, one, "rounds", y, Look(one.label, colors[level], _MARKERS[level % len(_MARKERS)], line))
            axis.set_xlabel(AXIS_LABELS["rounds"])
            axis.set_ylabel("training loss" if y == "training_loss" else metric_label(y))
            if y == "training_loss":
                log_y(axis)
            else:
                zoom_on_baseline(axis, series, y)
        handles = [
            Line2D([], [], color=color, marker=marker, label=f"density {100 * level:g} %")
            for color, marker, level in zip(colors, _MARKERS, levels)
        ]
        for line, name in (("-", "SASG"), ("--", "Sparse")):
            handles.append(Line2D([], [], color="#333333", linestyle=line, label=name))
        options = {"columnspacing": 1.2, "handlelength": 2.2}
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), **options)
        return save(figure, folder, file)


def accuracy_by_source(entries: Sequence[Entry], folder: Path, file: str, sources: tuple[str, ...]) -> str:
    """Figure 5: mean accuracy, the accuracy on each source's own test set, and training loss, against rounds.

    In a second row with each source's own BatchNorm statistics, where all runs have them.
    """
    series = all_series(entries)
    task = series[0].task
    accuracies = {"top1": "mean top-1 accuracy"}
    accuracies |= {f"top1_{source}": f"{task_name(source)} top-1 accuracy" for source in sources}
    own = {f"{y}{OWN_STATISTICS}": f"{label},\nown statistics" for y, label in accuracies.items()}
    panels = {**accuracies, "training_loss": "training loss"}
    num_rows = 1
    if all(set(own) <= set(run.metrics) for one in series for run in one.runs):
        panels, num_rows = panels | own, 2
    with drawing():
        figure, axes = new_figure(PAGE, 2.1 * num_rows, num_rows, len(accuracies) + 1)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for number, (axis, (y, label)) in enumerate(zip(axes.flat, panels.items())):
            axis.set_title(f"({letter(number)}) {title(task, series) if number == 0 else ''}", loc="left")
            if gap((axis,), task, series):
                continue
            draw(axis, series, "rounds", y)
            axis.set_xlabel("rounds")
            axis.set_ylabel(label)
            if y == "training_loss":
                log_y(axis)
        legend(figure, series)
        return save(figure, folder, file)


def real_bits(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Accuracy against real bits: uplink with indices and flags (above), and with every worker's download (below)."""
    tasks = by_task(all_series(entries))
    rows = {"uplink_bits": f"uplink bits ({CODE} indices, flags)", "real_bits": "uplink + downlink bits (unicast)"}
    with drawing():
        figure, axes = new_figure(PAGE, 3.7, 2, len(tasks))
        for column, (task, series) in enumerate(tasks.items()):
            for row, (x, label) in enumerate(rows.items()):
                axis = axes[row, column]
                number = letter(column + row * len(tasks))
                axis.set_title(f"({number}) {task_name(task) if row else title(task, series)}", loc="left")
                if gap((axis,), task, series):
                    continue
                draw(axis, series, x, metric_of(series))
                axis.set_xscale("log")
                zoom_on_baseline(axis, series, metric_of(series))
                axis.set_ylabel(metric_label(metric_of(series)))
                axis.set_xlabel(label)
        legend(figure, [one for series in tasks.values() for one in series])
        return save(figure, folder, file)


def uploads(
    entries: Sequence[Entry], folder: Path, file: str, methods: tuple[str, ...] = ("lasg", "sasg"), bins: int = 60
) -> str:
    """The share of each worker's iterations with an upload, along the training: a heat map per task and method."""
    tasks = by_task(one for one in all_series(entries) if one.method in methods)
    with drawing():
        figure, axes = new_figure(PAGE, 1.25 * len(methods) + 0.5, len(methods), len(tasks))
        image = None
        for column, (task, series) in enumerate(tasks.items()):
            for one in series:
                row = methods.index(one.method)
                axis = axes[row, column]
                number = letter(row * len(tasks) + column)
                axis.set_title(f"({number}) {task_name(task)}, {one.label}, {one.status}", loc="left")
                if gap((axis,), task, [one]):
                    continue
                shares = np.mean([upload_shares(run, bins) for run in one.runs], axis=0)
                epochs = one.runs[0].summary["final"]["epoch"]
                extent = (0, epochs, len(shares) + 0.5, 0.5)
                image = axis.imshow(
                    shares, aspect="auto", extent=extent, cmap="cividis", vmin=0, vmax=1, interpolation="nearest"
                )
                axis.grid(False)
                axis.set_yticks(range(1, len(shares) + 1, 3))
                axis.set_ylabel("worker")
                axis.set_xlabel("epoch")
        if image is not None:
            figure.colorbar(image, ax=axes, label="share of iterations\nwith an upload", shrink=0.8, pad=0.01)
        return save(figure, folder, file)


def thresholds(entries: Sequence[Entry], folder: Path, file: str, methods: tuple[str, ...] = ("lasg", "sasg")) -> str:
    """What the trigger compares along one run: the threshold, and the workers' squared gradient differences."""
    tasks = by_task(one for one in all_series(entries) if one.method in methods)
    with drawing():
        figure, axes = new_figure(PAGE, 1.5 * len(methods) + 0.4, len(methods), len(tasks))
        for column, (task, series) in enumerate(tasks.items()):
            for one in series:
                row = methods.index(one.method)
                axis = axes[row, column]
                seed = f", seed {one.runs[0].identity['seed']}" if one.runs else ""
                number = letter(row * len(tasks) + column)
                axis.set_title(f"({number}) {task_name(task)}, {one.label}{seed}", loc="left")
                if gap((axis,), task, [one]):
                    continue
                _draw_threshold(axis, frame(one.runs[0]))
        handles = [
            Line2D([], [], color="#D55E00", label="threshold (mean)"),
            Line2D([], [], color="#0072B2", linestyle="-.", label="squared difference (mean; band: least to largest)"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        return save(figure, folder, file)


def _draw_threshold(axis: Axes, table: pd.DataFrame) -> None:
    table = table[table["threshold"].notna()]
    smallest = table["difference_min"].clip(lower=table["difference_mean"].min() * 1e-6)
    axis.fill_between(table["epoch"], smallest, table["difference_max"], color="#0072B2", alpha=BAND, linewidth=0)
    axis.plot(table["epoch"], table["difference_mean"], color="#0072B2", linestyle="-.")
    axis.plot(table["epoch"], table["threshold"], color="#D55E00")
    axis.set_yscale("log")
    axis.set_xlabel("epoch")
    axis.set_ylabel("squared norm")


def _density(one: Series) -> float:
    return one.config.algorithm["compressor"]["density"]
