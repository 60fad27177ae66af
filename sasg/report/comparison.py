"""Two runs of one configuration side by side: from where on do they differ?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sasg.errors import UserError
from sasg.report.columns import Given, count
from sasg.report.names import TRIGGER_COLUMNS, percent
from sasg.report.runs import Entry, Run, look_up
from sasg.report.series import Series, all_series
from sasg.report.writing import Table

_CAPTION = "The same runs on a CPU and on a GPU"
_NOTES = """Pairs of runs with equal settings, seeds and data, so equal starting weights and samples. First decision
that differs: the first iteration (from 1) in which not the same workers upload, by seed; until then rounding has
changed no decision. Loss differs by: the relative difference of the first training loss (of 100 iterations), the
largest over seeds. Rounds: to the baseline, means over the pairs in which both runs cross it. Ratio: GPU / CPU, least
and largest over pairs.
"""
_MEANS = ("training_loss", *TRIGGER_COLUMNS)


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
    sent = [run.uploads for run in (one, other)]
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


@dataclass(frozen=True)
class _Pairs:
    """A method's runs on both devices, [(CPU, GPU)], and what is said of them."""

    entries: list[tuple[Entry, Entry]]

    @cached_property
    def compared(self) -> list[Comparison]:
        return [compare(cpu.run, gpu.run) for cpu, gpu in self.entries]

    @cached_property
    def rounds(self) -> np.ndarray:
        """To the baseline, of the pairs in which both runs cross it, [n, 2]."""
        crossings = [(cpu.run.crossing, gpu.run.crossing) for cpu, gpu in self.entries]
        return np.array([[at["rounds"] for at in pair] for pair in crossings if None not in pair]).reshape(-1, 2)

    def final(self, place: int) -> float:
        return float(np.mean([pair[place].run.summary["final"]["top1"] for pair in self.entries]))


def table(entries: Sequence[Entry]) -> Table:
    """The methods that have runs on a CPU and on a GPU."""
    found = {}
    series = []
    for one in all_series(entries):
        if (pairs := _pairs(one)).entries:
            found[one.task, one.label] = pairs
            series.append(replace(one, entries=tuple(entry for pair in pairs.entries for entry in pair)))

    def given(key: str, title: str, of: Callable[[_Pairs], Any], form: Callable[[Any], str] = str) -> Given:
        return Given(key, title, lambda one: of(found[one.task, one.label]), form)

    def of_rounds(key: str, title: str, of: Callable[[np.ndarray], float], form: Callable[[float], str]) -> Given:
        return given(key, title, lambda pairs: float(of(pairs.rounds)) if len(pairs.rounds) else None, form)

    columns = [
        given("pairs", "Pairs", lambda pairs: len(pairs.entries)),
        given("loss_differs_by", "Loss differs by", _loss_differs_by, "{:.1e}".format),
        given("first_decisions", "First decision that differs", _first_decisions, _list),
        given("crossing", "Pairs that cross", lambda pairs: len(pairs.rounds)),
        of_rounds("rounds_cpu", "Rounds CPU", lambda rounds: rounds[:, 0].mean(), count),
        of_rounds("rounds_gpu", "Rounds GPU", lambda rounds: rounds[:, 1].mean(), count),
        of_rounds("ratio_minimum", "Least ratio", lambda rounds: (rounds[:, 1] / rounds[:, 0]).min(), "{:.2f}".format),
        of_rounds("ratio_maximum", "Largest", lambda rounds: (rounds[:, 1] / rounds[:, 0]).max(), "{:.2f}".format),
        given("final_cpu", "Final accuracy CPU", lambda pairs: pairs.final(0), percent),
        given("final_gpu", "Final accuracy GPU", lambda pairs: pairs.final(1), percent),
    ]
    return Table.of(_CAPTION, series, columns, _NOTES)


def _pairs(one: Series) -> _Pairs:
    both = [look_up([replace(entry.config, device=device) for device in ("cpu", "cuda")]) for entry in one.entries]
    return _Pairs([(cpu, gpu) for cpu, gpu in both if _finished(cpu) and _finished(gpu)])


def _finished(entry: Entry) -> bool:
    return entry.run is not None and entry.run.status == "finished"


def _loss_differs_by(pairs: _Pairs) -> float:
    return max(found.loss_differs_by or 0.0 for found in pairs.compared)


def _first_decisions(pairs: _Pairs) -> str:
    return " ".join(str(found.first_decision or "none") for found in pairs.compared)


def _list(decisions: str) -> str:
    return "none" if set(decisions.split()) == {"none"} else decisions.replace(" ", ", ")
