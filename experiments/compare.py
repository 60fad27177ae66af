"""From where on do two runs differ? Say, one that was repeated, or the same on a CPU and on a GPU.

    sasg compare results/runs/mnist-sasg-s1-5028ab9c results/runs/mnist-sasg-s1-d0ffa332

Exit code 0: metrics and upload decisions are equal bit for bit. 1: they differ. In a checkout that is not installed:
scripts/compare.py.
"""

import argparse
from pathlib import Path

from sasg.errors import UserError
from sasg.report.comparison import Comparison, compare
from sasg.report.curves import flat
from sasg.report.folders import entries_in
from sasg.report.runs import Entry


def main() -> int:
    """Print how the two runs differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("other", type=Path, help="another one's")
    options = parser.parse_args()
    entries = [_entry(path) for path in (options.run, options.other)]
    for line in _settings(*entries):
        print(line)
    found = compare(*(entry.run for entry in entries))
    print("\n".join(_words(found)))
    return 0 if found.identical else 1


def _entry(path: Path) -> Entry:
    entries = entries_in([path])
    if len(entries) > 1 or entries[0].run is None or not (path / "uploads.npz").exists():
        raise UserError(f"{path}: must be the folder of one run that has results (metrics.csv, uploads.npz)")
    return entries[0]


def _settings(one: Entry, other: Entry) -> list[str]:
    identities = [entry.run.identity for entry in (one, other)]
    data = [(identity["data_sha256"], identity["device"]) for identity in identities]
    a, b = (flat(entry.config.identity(*known)) for entry, known in zip((one, other), data, strict=True))
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    if a["task.name"] != b["task.name"] or a["cluster.workers"] != b["cluster.workers"]:
        raise UserError("these runs have other tasks or numbers of workers; only what is alike can be compared")
    return [f"{key}: {a.get(key)} | {b.get(key)}" for key in keys]


def _words(found: Comparison) -> list[str]:
    if found.identical:
        return ["equal bit for bit: metrics and upload decisions"]
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
