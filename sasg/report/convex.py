"""Methods on sum objectives, as parts of a report: bits to a target, and how the objective falls."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.report.columns import Given, count, final, scientific
from sasg.report.names import METRICS, method_name, metric_label, task_name
from sasg.report.panels import gap, legend, line_of, mark_baseline
from sasg.report.runs import Entry, Run
from sasg.report.series import Series, all_series, metric_of, of_methods
from sasg.report.statistics import over_seeds
from sasg.report.style import PAGE, Look, drawing, looks, new_figure
from sasg.report.writing import Table

CODE = "delta"
"""The index code of uplink bits here: what an encoder really makes of positions."""

_NOTES = """Up to the first evaluation below the target; components are the values that were uploaded, uplink bits all
that was: values ({bits} bits, fewer where they are quantised), positions ({code} code), norms and lengths, flags.
Where a method does not come below the target, the row counts its whole run, in brackets, and the last column says
how near it came; where only some of its runs do, it says how many. Means over seeds, their number in the last column.
"""


def table(entries: Sequence[Entry], reference: str = "gd") -> Table:
    """Uplink until the target is reached.

    reference: the method whose bits the others' are set against.
    """
    series = all_series(entries)
    bits_of = {one.task: _mean(one, _uplink) for one in series if one.method == reference and _reaches(one)}

    def ratio(one: Series) -> float | None:
        bits = _mean(one, _uplink) if _reaches(one) else None
        return bits_of[one.task] / bits if bits and bits_of.get(one.task) else None

    columns = [
        _to_target("iterations", "Iterations", lambda run, at: at["iteration"] if at else run.summary["iterations"]),
        _to_target("rounds", "Rounds", lambda run, at: (at or run.summary["totals"])["rounds"]),
        _to_target("components", "Components", lambda run, at: (at or run.summary["totals"])["paper_bits"] // 32),
        _to_target("uplink_bits", "Uplink bits", _uplink, scientific),
        Given("ratio", f"{method_name(reference)}'s bits / its", ratio, "{:.1f}".format),
        final(series),
    ]
    notes = _NOTES.format(bits=64 if entries[0].config.precision == "fp64" else 32, code=CODE)
    paper = ("Task", "Method", *(column.title for column in columns[1:-1]))
    return Table.of(f"Uplink until {_targets(series)}", series, columns, notes, paper=paper)


def _targets(series: Sequence[Series]) -> str:
    words = []
    for one in series:
        if (baseline := one.config.task.baseline) is not None:
            sign = "<" if baseline.accuracy is None else ">"
            words.append(f"{METRICS[baseline.metric]} {sign} {baseline.value:g} ({task_name(one.task)})")
    return ", ".join(dict.fromkeys(words)) or "the end: no task has a target"


def _uplink(run: Run, at: dict[str, Any] | None) -> int | None:
    """None where the run's ledger did not count in this code."""
    totals = at or run.summary["totals"]
    return uplink_bits(totals, CODE) if f"index_bits_{CODE}" in totals else None


class _ToTarget(Given):
    """A quantity up to the target; of the whole run, in brackets, where it is not reached."""

    def cell(self, one: Series) -> str:
        counted = [run for run in one.runs if run.summary["totals"]]
        crossed = sum(run.crossing is not None for run in counted)
        if not counted:
            return one.missing if not one.runs else ""
        if 0 < crossed < len(counted):
            return f"{crossed} of {len(counted)} reach it"
        return super().cell(one) if crossed else f"({super().cell(one)})"


def _to_target(key: str, title: str, of: Callable[[Run, dict | None], float], form=count) -> _ToTarget:
    return _ToTarget(key, title, lambda one: _mean(one, of), form)


def _reaches(one: Series) -> bool:
    return bool(one.runs) and all(run.crossing for run in one.runs)


def _mean(one: Series, of: Callable[[Run, dict | None], float]) -> float | None:
    counted = [run for run in one.runs if run.summary["totals"]]
    mean = over_seeds([of(run, run.crossing) for run in counted]).mean
    return int(mean) if mean is not None and mean.is_integer() else mean


def descent(entries: Sequence[Entry], methods: tuple[str, ...]) -> Figure:
    """The objective's error (or gradient) against iterations and against uplink bits, a row per problem.

    methods: those that are drawn.
    """
    tasks = of_methods(entries, methods)
    with drawing():
        figure, axes = new_figure(PAGE, 1.75 * len(tasks) + 0.4, len(tasks), 2, sharey="row")
        appearance = looks(one for series in tasks.values() for one in series)
        for (task, series), (left, right) in zip(tasks.items(), axes, strict=True):
            left.set_title(f"{task_name(task)}, d = {_num_parameters(series)}", loc="left")
            if gap((left, right), task, series):
                continue
            for one in series:
                for run in one.drawn:
                    _draw(left, right, run, metric_of(series), appearance[one.label])
            _finish(left, right, series)
        for axis, label in zip(axes[-1], ("iteration", f"uplink bits (values, positions in {CODE} code, flags)")):
            axis.set_xlabel(label)
        legend(figure, appearance.values(), with_baseline="target")
        return figure


def _num_parameters(series: Sequence[Series]) -> str:
    return str(next((run.summary["num_parameters"] for one in series for run in one.runs), "?"))


def _draw(left: Axes, right: Axes, run: Run, metric: str, look: Look) -> None:
    table = run.metrics
    line = {**line_of(look), "markevery": max(1, len(table) // 6)}
    left.plot(table["iteration"], table[metric], **line)
    if f"index_bits_{CODE}" in table:
        right.plot(uplink_bits(table, CODE), table[metric], **line)


def _finish(left: Axes, right: Axes, series: Sequence[Series]) -> None:
    """Logarithmic axes from a little below the target up to where the runs begin."""
    metric = metric_of(series)
    left.set_yscale("log")
    left.set_ylabel(metric_label(metric))
    right.set_xscale("log")
    starts = [run.metrics[metric].iloc[0] for one in series for run in one.drawn]
    if (baseline := series[0].config.task.baseline) is not None:
        left.set_ylim(baseline.value / 30, 3 * max((start for start in starts if start < 1e3), default=1.0))
        mark_baseline(right, baseline, words=True)
        mark_baseline(left, baseline)
