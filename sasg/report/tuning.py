"""What tuning tried, what it chose, and what it cost. A part of a report.

A trial is a run at some factor of the task's step size, on training samples alone; see experiments.tuning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.report.columns import count
from sasg.report.curves import CODE
from sasg.report.judging import judged_by, rises
from sasg.report.names import method_name, metric_text, task_name
from sasg.report.runs import Entry, Run
from sasg.report.writing import Row, Table

HELD_OUT = "held_out"
"""The kind of data set that tells trials from other runs: training samples are tested on."""

_NOTES = """What training samples that were held out say at the end of each trial, by the factor of the task's step
size. The best is chosen, of equals the smallest; where it is the smallest or the largest tried, the next one is tried,
too. Epochs and training seconds are those of all trials of the method; seconds depend on the machine.
"""


def is_trial(entry: Entry) -> bool:
    """Whether it is a trial of a step size."""
    return entry.config.dataset.get("kind") == HELD_OUT


def without_trials(entries: Sequence[Entry]) -> list[Entry]:
    """The runs whose numbers a study is about."""
    return [entry for entry in entries if not is_trial(entry)]


def tuned_methods(entries: Sequence[Entry], task: str) -> set[str]:
    """The methods of a task all of whose trials have ended."""
    trials = [entry for entry in entries if entry.task == task and is_trial(entry)]
    return {entry.method for entry in trials} - {entry.method for entry in trials if entry.run is None}


def best(trials: Mapping[float, Run]) -> float:
    """The factor whose trial ended best; of equals, and where all diverged, the smallest."""

    def place(factor: float) -> tuple[float, float]:
        run = trials[factor]
        if run.status != "finished":
            return float("inf"), factor
        metric = judged_by(run)
        value = run.summary["final"][metric]
        return -value if rises(metric) else value, factor

    return min(trials, key=place)


def table(entries: Sequence[Entry]) -> Table:
    """A row per method and task, a column per factor; the CSV has a row per trial."""
    usual = {_key(entry): float(entry.config.task.step_size) for entry in reversed(without_trials(entries))}
    tried: dict[tuple[str, str], dict[float, Entry]] = {}
    for entry in filter(is_trial, entries):
        tried.setdefault(_key(entry), {})[float(entry.config.task.step_size) / usual[_key(entry)]] = entry
    factors = sorted({factor for found in tried.values() for factor in found})
    rows, numbers = [], []
    for (task, method), found in tried.items():
        ended = {factor: entry.run for factor, entry in found.items() if entry.run}
        if not ended:
            continue
        chosen = best(ended) if len(ended) == len(found) else None
        cells = [_cell(found[factor]) if factor in found else "" for factor in factors]
        told = "not yet" if chosen is None else f"{chosen:g}"
        rows.append(Row((task_name(task), method_name(method), *cells, told, *_cost(list(ended.values()))), {}))
        numbers += [_numbers(factor, found[factor], factor == chosen) for factor in sorted(found)]
    header = ("Task", "Method", *(f"x {factor:g}" for factor in factors), "Chosen", "Epochs", "Training seconds")
    caption = "Step sizes: factors of the task's, tried on training samples that were held out"
    return Table(caption, header, tuple(rows), _NOTES, ("Task", "Method", *header[-3:]), numbers=numbers)


def _key(entry: Entry) -> tuple[str, str]:
    return entry.task, entry.method


def _value(run: Run) -> float | None:
    return run.summary["final"][judged_by(run)] if run.status == "finished" else None


def _cell(entry: Entry) -> str:
    run = entry.run
    if run is None:
        return entry.words
    value = _value(run)
    return "diverged" if value is None else metric_text(judged_by(run), value)


def _cost(runs: Sequence[Run]) -> tuple[str, str]:
    """Epochs and training seconds."""
    epochs = sum(run.identity["epochs"] for run in runs)
    return count(epochs), count(sum(run.summary["training_seconds"] for run in runs))


def _numbers(factor: float, entry: Entry, is_chosen: bool) -> dict[str, Any]:
    run = entry.run
    return {
        "task": entry.task,
        "method": entry.method,
        "factor": factor,
        "step_size": entry.config.task.step_size,
        "chosen": is_chosen,
        "held_out": None if run is None else _value(run),
        "epochs": entry.config.epochs,
        "training_seconds": None if run is None else run.summary["training_seconds"],
        "uplink_bits": None if run is None else uplink_bits(run.summary["totals"], CODE),
        "status": entry.words,
    }
