"""What whole runs cost, and what they reach: a row per task and method, means over the finished runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasg.cluster.ledger import uplink_bits
from sasg.report.curves import CODE, Series, all_series, metric_of
from sasg.report.names import METRICS, percent, task_name
from sasg.report.runs import Entry, Run
from sasg.report.tables import as_csv, as_markdown, write_and_show

HEADER = ["Task", "Method", "Iterations", "Rounds", "Share of rounds", "Uplink bits", "Downlink bits", "Final accuracy"]
HEADER += ["Training seconds", "Runs"]
_NOTES = f"""Of whole runs, means over seeds. A round is one upload by one worker; an iteration of local SGD is several
mini-batches. Uplink: values, indices ({CODE}), side scalars, flags. Downlink: once per worker that receives something.
Training seconds are wall-clock time without evaluations, of all workers of a simulation together; they depend on what
else the machine had to do.
"""

QUANTITIES: dict[str, Callable[[Run], float]] = {
    "iterations": lambda run: run.summary["iterations"],
    "rounds": lambda run: run.summary["totals"]["rounds"],
    "share_of_rounds": lambda run: 1 - run.summary["skipped_share"],
    "uplink_bits": lambda run: uplink_bits(run.summary["totals"], CODE),
    "downlink_bits": lambda run: run.summary["totals"][f"downlink_unicast_bits_{CODE}"],
    "training_seconds": lambda run: run.summary["training_seconds"],
}


def write(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Write FILE.md and FILE.csv; returns what to print."""
    counted = [numbers(one) for one in all_series(entries)]
    table = as_markdown(HEADER, [_row(found) for found in counted])
    documents = {
        f"{file}.csv": as_csv(counted),
        f"{file}.md": f"# Cost and accuracy of whole runs\n\n{table}\n{_NOTES}",
    }
    return write_and_show(folder, documents, table)


def numbers(one: Series) -> dict[str, Any]:
    """A method on a task: means over its finished runs, None where there are none."""
    runs = [run for run in one.runs if run.summary["status"] == "finished"]
    metric = metric_of([one])

    def mean(quantity: Callable[[Run], float]) -> float | None:
        return float(np.mean([quantity(run) for run in runs])) if runs else None

    return {
        "task": one.task,
        "method": one.label,
        **{name: mean(quantity) for name, quantity in QUANTITIES.items()},
        "metric": metric,
        "final_accuracy": mean(lambda run: run.summary["final"][metric]),
        "n": len(runs),
        "n_planned": one.num_planned,
    }


def _row(found: dict[str, Any]) -> list[str]:
    cells = ["not run"] * 7
    if found["n"]:
        cells = [
            f"{found['iterations']:,.0f}",
            f"{found['rounds']:,.0f}",
            percent(found["share_of_rounds"], 1),
            f"{found['uplink_bits']:.2E}",
            f"{found['downlink_bits']:.2E}",
            f"{percent(found['final_accuracy'])} {METRICS[found['metric']]}",
            f"{found['training_seconds']:,.0f}",
        ]
    return [task_name(found["task"]), found["method"], *cells, f"{found['n']} of {found['n_planned']}"]
