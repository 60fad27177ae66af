"""Runs with the published draws, by epoch, beside the rows of benchmarks/published_replay.py."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sasg.report.epochs import Epoch, epochs_of, largest
from sasg.report.names import method_name, percent
from sasg.report.runs import Entry, Run
from sasg.report.tables import as_csv, as_markdown, write_and_show

REPLAY = "replay.csv"
HEADER = ["Method", "Seed", "Crossing", "Rounds to it", "Final accuracy", "Skipped"]
HEADER += ["Replayed epochs", "Its crossing", "Loss differs by", "Accuracy differs by", "Skipped differs by"]
_NOTES = f"""Crossing: the iteration of the first evaluation above the baseline; there is one every 100 iterations.
Skipped: uploads of the whole run. Replay: `benchmarks/published_replay.py`, an implementation of its own with torch's
data loaders and global generators; its rows are in `{REPLAY}`. Its crossing is that within its epochs. Differs by: the
largest difference in an epoch of the training loss (mean over workers and iterations), the test accuracy (points) and
the skipped uploads of the epoch.
"""

Key = tuple[str, int]  # method, seed


def write(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Write FILE.md, FILE.csv (a row per run) and FILE_epochs.csv, beside FOLDER/replay.csv; returns what to print."""
    replayed = _replayed(folder / REPLAY)
    runs = [(entry, entry.run) for entry in entries if entry.run is not None]
    by_epoch = {(entry.method, entry.config.seed): epochs_of(run) for entry, run in runs}
    numbers = [_numbers(entry, run, by_epoch, replayed) for entry, run in runs]
    missing = [[method_name(e.method), str(e.config.seed), *["not run"] * 9] for e in entries if e.run is None]
    table = as_markdown(HEADER, [*map(_row, numbers), *missing])
    documents = {
        f"{file}.md": f"# The published notebook's draws\n\n{table}\n{_NOTES}",
        f"{file}.csv": as_csv(numbers),
        f"{file}_epochs.csv": as_csv(_epoch_rows(by_epoch, replayed)),
    }
    return write_and_show(folder, documents, table)


def _numbers(
    entry: Entry, run: Run, by_epoch: Mapping[Key, list[Epoch]], replayed: Mapping[Key, list[dict[str, str]]]
) -> dict[str, Any]:
    key = entry.method, entry.config.seed
    rows, crossing = replayed.get(key, []), run.summary["crossing"]
    beside = [ours.minus(_epoch(row)) for ours, row in zip(by_epoch[key], rows)]
    apart = largest(beside) if beside else None
    return {
        "method": entry.method,
        "seed": entry.config.seed,
        "crossing": crossing and crossing["iteration"],
        "rounds": crossing and crossing["rounds"],
        "final_top1": run.summary["final"]["top1"],
        "skipped": sum(epoch.num_skipped for epoch in by_epoch[key]),
        "skipped_share": run.summary["skipped_share"],
        "replay_epochs": len(rows),
        "replay_crossing": int(rows[-1]["crossing"]) if rows and rows[-1]["crossing"] else None,
        "training_loss_differs_by": apart and apart.training_loss,
        "top1_differs_by": apart and apart.top1,
        "skipped_differs_by": apart and apart.num_skipped,
    }


def _row(found: Mapping[str, Any]) -> list[str]:
    def whole(name: str) -> str:
        return "none" if found[name] is None else f"{found[name]:,}"

    cells = [method_name(found["method"]), str(found["seed"]), whole("crossing"), whole("rounds")]
    cells += [percent(found["final_top1"]), f"{found['skipped']:,} ({percent(found['skipped_share'], 1)})"]
    if not found["replay_epochs"]:
        return [*cells, *["not run"] * 5]
    apart = f"{found['training_loss_differs_by']:.4f}", f"{100 * found['top1_differs_by']:.2f}"
    return [*cells, whole("replay_epochs"), whole("replay_crossing"), *apart, whole("skipped_differs_by")]


def _epoch_rows(
    by_epoch: Mapping[Key, list[Epoch]], replayed: Mapping[Key, list[dict[str, str]]]
) -> list[dict[str, Any]]:
    rows = []
    for (method, seed), epochs in by_epoch.items():
        others = replayed.get((method, seed), [])
        for number, epoch in enumerate(epochs, 1):
            other = _epoch(others[number - 1]) if number <= len(others) else None
            of_replay = {f"replay_{name}": value for name, value in _columns(other).items()}
            rows.append({"method": method, "seed": seed, "epoch": number, **_columns(epoch), **of_replay})
    return rows


def _columns(epoch: Epoch | None) -> dict[str, Any]:
    return {
        "skipped": epoch and epoch.num_skipped,
        "training_loss": epoch and epoch.training_loss,
        "top1": epoch and epoch.top1,
    }


def _epoch(row: Mapping[str, str]) -> Epoch:
    return Epoch(int(row["skipped"]), float(row["training_loss"]), float(row["top1"]))


def _replayed(path: Path) -> dict[Key, list[dict[str, str]]]:
    """Rows of the replay by run, in the order of their epochs; none where there is no file."""
    found: dict[Key, list[dict[str, str]]] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault((row["method"], int(row["seed"])), []).append(row)
    return found
