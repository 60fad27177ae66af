"""Runs on several sources of images: accuracy on each source's test set, and which workers skip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasg.problem.problem import OWN_STATISTICS
from sasg.report.curves import Series, all_series
from sasg.report.names import percent, task_name
from sasg.report.runs import Entry, Run
from sasg.report.tables import Table
from sasg.training.run_folder import read_uploads

_CAPTION = "Accuracy and skipped uploads by source"
_NOTES = """At the end of the run, means over seeds. Accuracy: top-1 on each source's own test set, and their mean.
Own: BatchNorm normalises with the running statistics of the workers that hold the source, instead of everyone's.
Skipped: share of (iteration, worker) pairs without an upload, of the workers that hold the source.
"""


def write(entries: Sequence[Entry], folder: Path, file: str, sources: Sequence[str]) -> str:
    """Write FILE.csv, FILE.md and FILE.tex; returns what to print.

    sources: in the order of the data set's; worker m holds source m mod S (shards by_source).
    """
    names = [task_name(source) for source in sources]
    header = ["Task", "Method", *(f"Accuracy {name}" for name in names), "Mean accuracy"]
    header += [*(f"Own {name}" for name in names), "Own mean"]
    header += ["Rounds", "Skipped", *(f"Skipped {name}" for name in names), "Runs"]
    found = [_numbers(one, sources) for one in all_series(entries)]
    rows = [_cells(row, sources) for row in found]
    return Table(found, header, rows, _CAPTION, _NOTES).write(folder, file)


def _numbers(one: Series, sources: Sequence[str]) -> dict[str, Any]:
    runs = [run for run in one.runs if run.summary["status"] == "finished"]
    skipped = [_skipped_by_source(run, len(sources)) for run in runs]

    def mean(values: Sequence[float | None]) -> float | None:
        return float(np.mean(values)) if runs and None not in values else None

    def final(column: str) -> float | None:
        return mean([run.summary["final"].get(column) for run in runs])

    return {
        "task": one.task,
        "method": one.label,
        **{column: final(column) for column in _accuracies(sources)},
        "rounds": mean([run.summary["totals"]["rounds"] for run in runs]),
        "skipped": mean([run.summary["skipped_share"] for run in runs]),
        **{f"skipped_{s}": mean([shares[index] for shares in skipped]) for index, s in enumerate(sources)},
        "n": len(runs),
        "n_planned": one.num_planned,
    }


def _skipped_by_source(run: Run, num_sources: int) -> list[float]:
    uploads = read_uploads(run.path / "uploads.npz")
    return [1 - float(uploads[:, source::num_sources].mean()) for source in range(num_sources)]


def _accuracies(sources: Sequence[str]) -> list[str]:
    shared = [*(f"top1_{s}" for s in sources), "top1"]
    return shared + [f"{column}{OWN_STATISTICS}" for column in shared]


def _cells(row: dict[str, Any], sources: Sequence[str]) -> list[str]:
    cells = []
    for key in [*_accuracies(sources), "rounds", "skipped", *(f"skipped_{s}" for s in sources)]:
        if row[key] is None:
            cells.append("–" if row["n"] else "not run")
        else:
            cells.append(f"{row[key]:,.0f}" if key == "rounds" else percent(row[key]))
    return [task_name(row["task"]), row["method"], *cells, f"{row['n']} of {row['n_planned']}"]
