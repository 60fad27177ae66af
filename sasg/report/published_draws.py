"""Runs with the published draws, by epoch, beside the rows of benchmarks/published_replay.py."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sasg.places import CONF
from sasg.report.epochs import Epoch, epochs_of, largest
from sasg.report.names import method_name, percent
from sasg.report.runs import Entry
from sasg.report.series import all_series
from sasg.report.writing import Row, Table

REPLAY = "replay.csv"
HEADER = ("Method", "Seed", "Crossing", "Rounds to it", "Final accuracy", "Skipped")
HEADER += ("Replayed epochs", "Its crossing", "Loss differs by", "Accuracy differs by", "Skipped differs by")
EPOCHS = ("Method", "Seed", "Epoch", "Loss", "replay", "Test accuracy", "replay", "Skipped", "replay")
_NOTES = f"""Crossing: the iteration of the first evaluation above the baseline; there is one every 100 iterations.
Skipped: uploads of the whole run. Replay: `benchmarks/published_replay.py`, an implementation of its own with torch's
data loaders and global generators; its rows are in `{REPLAY}`. Its crossing is that within its epochs. Differs by: the
largest difference in an epoch of the training loss (mean over workers and iterations), the test accuracy (points) and
the skipped uploads of the epoch.
"""

Key = tuple[str, int]  # method, seed


def table(entries: Sequence[Entry], replay: Path | None = None) -> Table:
    """A row per run, and their epochs in a section with a CSV of its own. replay: another file than the suite's."""
    replayed = _replayed(replay or CONF.parent / "results" / "published_draws" / REPLAY)
    by_epoch = {_key(entry): epochs_of(entry.run) for entry in entries if entry.words == "finished"}
    numbers = [_numbers(entry, by_epoch.get(_key(entry), []), replayed.get(_key(entry), [])) for entry in entries]
    series = {id(entry): one for one in all_series(entries) for entry in one.entries}
    rows = [Row(_row(found), found, series.get(id(entry))) for entry, found in zip(entries, numbers, strict=True)]
    epochs = _by_epoch(by_epoch, replayed)
    return Table("The published notebook's draws", HEADER, tuple(rows), _NOTES, sections=(epochs,))


def _by_epoch(by_epoch: Mapping[Key, list[Epoch]], replayed: Mapping[Key, list[dict[str, str]]]) -> Table:
    """Epochs that were replayed; all of them in the CSV."""
    numbers = _epoch_rows(by_epoch, replayed)
    rows = [Row(_epoch_cells(row), row) for row in numbers if row["replay_training_loss"] is not None]
    return Table("Epochs that were replayed", EPOCHS, tuple(rows), "", numbers=numbers, name="epochs")


def _epoch_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    cells = [method_name(row["method"]), str(row["seed"]), str(row["epoch"])]
    for name, text in (("training_loss", "{:.4f}".format), ("top1", percent), ("skipped", "{:,}".format)):
        cells += [text(row[name]), text(row[f"replay_{name}"])]
    return tuple(cells)


def _key(entry: Entry) -> Key:
    return entry.method, entry.config.seed


def _numbers(entry: Entry, epochs: Sequence[Epoch], replayed: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A run's row: None where it is not finished, or not replayed."""
    summary: Mapping[str, Any] = entry.run.summary if epochs else {}
    crossing = summary.get("crossing") or {}
    beside = [ours.minus(_epoch(row)) for ours, row in zip(epochs, replayed)]
    apart = _columns(largest(beside) if beside else None)
    return {
        "method": entry.method,
        "seed": entry.config.seed,
        "status": entry.words,
        "crossing": crossing.get("iteration"),
        "rounds": crossing.get("rounds"),
        "final_top1": epochs[-1].top1 if epochs else None,
        "skipped": sum(epoch.num_skipped for epoch in epochs) if epochs else None,
        "skipped_share": summary.get("skipped_share"),
        "replay_epochs": len(replayed),
        "replay_crossing": int(replayed[-1]["crossing"]) if replayed and replayed[-1]["crossing"] else None,
        **{f"{name}_differs_by": value for name, value in apart.items()},
    }


def _row(found: Mapping[str, Any]) -> tuple[str, ...]:
    def whole(name: str) -> str:
        return "none" if found[name] is None else f"{found[name]:,}"

    cells, of_replay = [found["status"]] * 4, ["not run"] * 5
    if found["status"] == "finished":
        skipped = f"{found['skipped']:,} ({percent(found['skipped_share'], 1)})"
        cells = [whole("crossing"), whole("rounds"), percent(found["final_top1"]), skipped]
    if found["training_loss_differs_by"] is not None:
        apart = f"{found['training_loss_differs_by']:.4f}", f"{100 * found['top1_differs_by']:.2f}"
        of_replay = [whole("replay_epochs"), whole("replay_crossing"), *apart, whole("skipped_differs_by")]
    return (method_name(found["method"]), str(found["seed"]), *cells, *of_replay)


def _epoch_rows(by_epoch: Mapping[Key, list[Epoch]], replayed: Mapping[Key, list[dict[str, str]]]) -> list[dict]:
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
