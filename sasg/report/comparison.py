"""Two runs of one configuration side by side: from where on do they differ?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sasg.errors import UserError
from sasg.report.curves import TRIGGER_COLUMNS, Series, all_series, settings
from sasg.report.names import percent, task_name
from sasg.report.runs import Entry, Run, look_up
from sasg.report.tables import Table
from sasg.training.run_folder import read_uploads

_CAPTION = "The same runs on a CPU and on a GPU"
_NOTES = """Pairs of runs with equal settings, seeds and data, so equal starting weights and samples. First decision
that differs: the first iteration (from 1) in which not the same workers upload, by seed; until then rounding has
changed no decision. Loss differs by: the relative difference of the first training loss (of 100 iterations), the
largest over seeds. Rounds: to the baseline, means over the pairs in which both runs cross it. Ratio: GPU / CPU, range
over pairs.
"""
_MEANS = ("training_loss", *TRIGGER_COLUMNS)
HEADER = ["Task", "Method", "Pairs", "Loss differs by", "First decision that differs", "Rounds CPU", "Rounds GPU"]
HEADER += ["Ratio", "Final accuracy CPU", "Final accuracy GPU"]


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds. Iterations count from 1; None: there is none."""

    identical: bool  # all metrics and upload decisions, bit for bit
    num_iterations: tuple[int, int]  # of either run
    first_decision: int | None  # the first iteration in which not the same workers upload
    first_workers: tuple[int, ...]  # who uploads in one of the runs only, then
    equal_decisions: float  # share of all (iteration, worker) pairs of the iterations that both have
    first_evaluation: int | None  # the first iteration whose row of metrics differs
    loss_differs_by: float | None  # relative difference of the first training loss that both have
    columns: tuple[str, ...]  # that differ in the row of `first_evaluation`


def compare(one: Run, other: Run) -> Comparison:
    """Two runs of one task, with the same workers. Compared are the iterations, evaluations and columns that both have.

    Of columns that are means since the evaluation before, only rows are compared that have the same one before.

    UserError: they have no evaluation in common.
    """
    sent = [read_uploads(run.path / "uploads.npz") for run in (one, other)]
    num_iterations = min(map(len, sent))
    unequal = sent[0][:num_iterations] != sent[1][:num_iterations]
    decision = int(unequal.any(axis=1).argmax()) if unequal.any() else None
    tables = [run.metrics.set_index("iteration") for run in (one, other)]
    both = tables[0].index.intersection(tables[1].index)
    if both.empty:
        raise UserError(f"{one.path}, {other.path}: no iteration was evaluated in both")
    shared = [column for column in tables[0] if column in tables[1]]
    a, b = (table.loc[both, shared] for table in tables)
    differs = ~((a == b) | (a.isna() & b.isna()))
    before = [pd.Series(table.index, table.index).shift(fill_value=0)[both] for table in tables]
    same_interval = before[0] == before[1]
    differs.loc[~same_interval, differs.columns.intersection(_MEANS)] = False
    rows = differs.any(axis=1)
    first = rows.idxmax() if rows.any() else None
    losses = [table["training_loss"][same_interval].iloc[0] for table in (a, b)] if same_interval.any() else None
    alike = tables[0].index.equals(tables[1].index) and set(tables[0]) == set(tables[1])
    return Comparison(
        identical=decision is None and first is None and len(sent[0]) == len(sent[1]) and alike,
        num_iterations=(len(sent[0]), len(sent[1])),
        first_decision=None if decision is None else decision + 1,
        first_workers=() if decision is None else tuple(np.flatnonzero(unequal[decision]).tolist()),
        equal_decisions=1 - float(unequal.mean()),
        first_evaluation=None if first is None else int(first),
        loss_differs_by=losses and (abs(losses[0] - losses[1]) / abs(losses[0]) if losses[0] else float(any(losses))),
        columns=() if first is None else tuple(column for column in shared if differs.loc[first, column]),
    )


def write(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Write FILE.csv, FILE.md and FILE.tex of the methods that have runs on both; returns what to print."""
    found = [row for one in all_series(entries) if (row := _numbers(one, entries)) is not None]
    if not found:
        return "no configuration was run on a CPU and on a GPU"
    rows = [_cells(row) for row in found]
    return Table(found, HEADER, rows, _CAPTION, _NOTES).write(folder, file)


def _numbers(one: Series, entries: Sequence[Entry]) -> dict[str, Any] | None:
    own = settings(one.config)
    configs = [entry.config for entry in entries if settings(entry.config) == own]
    pairs = [[entry.run for entry in look_up([replace(c, device=d) for d in ("cpu", "cuda")])] for c in configs]
    pairs = [pair for pair in pairs if None not in pair]
    if not pairs:
        return None
    compared = [compare(*pair) for pair in pairs]
    rounds = [[run.summary["crossing"] and run.summary["crossing"]["rounds"] for run in pair] for pair in pairs]
    rounds = np.array([pair for pair in rounds if None not in pair], dtype=float).reshape(-1, 2)
    ratios = rounds[:, 1] / rounds[:, 0]
    final = np.array([[run.summary["final"]["top1"] for run in pair] for pair in pairs])
    return {
        "task": one.task,
        "method": one.label,
        "pairs": len(pairs),
        "loss_differs_by": max(found.loss_differs_by or 0.0 for found in compared),
        "first_decisions": " ".join(str(found.first_decision or "none") for found in compared),
        "rounds_cpu": rounds[:, 0].mean() if len(rounds) else None,
        "rounds_gpu": rounds[:, 1].mean() if len(rounds) else None,
        "ratio_minimum": ratios.min() if len(rounds) else None,
        "ratio_maximum": ratios.max() if len(rounds) else None,
        "final_cpu": float(final[:, 0].mean()),
        "final_gpu": float(final[:, 1].mean()),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    crossed = row["rounds_cpu"] is not None
    return [
        task_name(row["task"]),
        row["method"],
        str(row["pairs"]),
        f"{row['loss_differs_by']:.1e}",
        "none" if set(row["first_decisions"].split()) == {"none"} else row["first_decisions"].replace(" ", ", "),
        f"{row['rounds_cpu']:,.0f}" if crossed else "no pair crosses",
        f"{row['rounds_gpu']:,.0f}" if crossed else "no pair crosses",
        f"{row['ratio_minimum']:.2f} to {row['ratio_maximum']:.2f}" if crossed else "",
        percent(row["final_cpu"]),
        percent(row["final_gpu"]),
    ]
