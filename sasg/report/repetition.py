"""A run beside its repetition: the same, or from where on not."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sasg.config import flat
from sasg.report.comparison import Comparison, compare
from sasg.report.runs import Run
from sasg.training.run_folder import read_uploads

_RESULTS = ("status", "iterations", "crossing", "final", "totals")
_EQUAL = "equal bit for bit: metrics and upload decisions"


def beside(original: Path, again: Path) -> tuple[bool, list[str]]:
    """Whether two ended runs of equal settings are the same bit for bit, by their folders, and what to say of it."""
    metrics = [path.read_bytes() if (path := folder / "metrics.csv").exists() else b"" for folder in (original, again)]
    uploads = [read_uploads(folder / "uploads.npz") for folder in (original, again)]
    if metrics[0] == metrics[1] and np.array_equal(*uploads):
        return True, [_EQUAL]
    if not all(metrics):  # one diverged before its first evaluation
        return False, [f"iterations: {' | '.join(str(len(sent)) for sent in uploads)}; one has no evaluation"]
    found = compare(*(Run(folder, {}, {}) for folder in (original, again)))
    return False, ["metrics.csv: not the same bytes, but equal numbers"] if found.identical else in_words(found)


def beside_packed(summary: dict[str, Any], again: Path) -> tuple[bool, list[str]]:
    """The same of a packed run, by its summary: what was counted and measured at the baseline and at the end."""
    repeated = json.loads((again / "summary.json").read_text())
    one, other = (flat({key: found.get(key) for key in _RESULTS}) for found in (summary, repeated))
    if one == other:
        return True, [f"equal: {', '.join(_RESULTS)} (packed runs keep no upload decisions to compare)"]
    return False, [f"{k}: {one.get(k)} | {other.get(k)}" for k in {**one, **other} if one.get(k) != other.get(k)]


def in_words(found: Comparison) -> list[str]:
    """What `compare` finds, in lines."""
    if found.identical:
        return [_EQUAL]
    if found.first_decision is None and found.first_evaluation is None:
        return ["equal as far as both go, but one has more iterations, evaluations or columns"]
    words = []
    if len(set(found.num_iterations)) > 1:
        words.append(f"iterations: {' | '.join(map(str, found.num_iterations))}; compared are those that both have")
    decisions, metrics = "equal", "equal"
    if found.first_decision is not None:
        workers = ", ".join(map(str, found.first_workers))
        decisions = f"first differ in iteration {found.first_decision} (workers {workers})"
        decisions += f"; {found.equal_decisions:.2%} are equal"
    if found.first_evaluation is not None:
        columns = found.columns if len(found.columns) < 6 else (*found.columns[:5], "...")
        metrics = f"first differ after iteration {found.first_evaluation} ({', '.join(columns)})"
        if found.loss_differs_by is not None:
            metrics += f"; the first training loss by {found.loss_differs_by:.1e} of its value"
    return [*words, f"upload decisions: {decisions}", f"metrics: {metrics}"]
