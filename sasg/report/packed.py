"""Packed runs: many runs as one compressed file, a line each, with what tables and figures need of them.

A study of dozens of runs would fill the repository with folders. A file NAME.jsonl.xz beside the run folders holds the
`config.json`, `summary.json` and `metrics.csv` of each instead, the last by column and without what triggers compared;
decisions and times are not in it. Older files hold no metrics.
"""

import csv
import io
import json
import lzma
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sasg.config import from_dict
from sasg.errors import UserError
from sasg.report.names import TRIGGER_COLUMNS
from sasg.training.run_folder import write_bytes

SUFFIX = ".jsonl.xz"

Curve = Mapping[str, str]
"""Columns of a metrics.csv by name: the texts of their values, joined by commas, so that they are read as they were."""


class Content(NamedTuple):
    """What is packed of a run."""

    identity: dict[str, Any]
    summary: dict[str, Any]
    curve: Curve | None = None  # None: it came to no evaluation, or is from an older file


def pack(path: Path, runs: Iterable[Content]) -> int:
    """Write runs into `path`, beside those that are there already (a run of the same name takes their place).

    Equal content gives equal bytes. Returns how many runs the file holds. UserError: its name, or what is there.
    """
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path}: packed runs are a file NAME{SUFFIX}")
    held = unpacked(path) if path.exists() else {}
    held |= {name_of(run.identity): run for run in runs}
    lines = [json.dumps(_kept(held[name])) for name in sorted(held)]
    write_bytes(path, lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=6))
    return len(held)


def _kept(run: Content) -> dict[str, Any]:
    kept = {"identity": run.identity, "summary": run.summary}
    return kept if run.curve is None else kept | {"metrics": dict(run.curve)}


def unpacked(path: Path) -> dict[str, Content]:
    """The runs of a file by name. UserError: it is damaged."""
    return _read(path, path.stat().st_mtime_ns)


def packed_run(path: Path, name: str) -> Content:
    """A run of a file. UserError: there is no such file, it is damaged, or it has no run of this name."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of packed runs")
    found = unpacked(path)
    if name not in found:
        raise UserError(f"{path}: holds no run {name}; sasg show {path} tells which it holds")
    return found[name]


@cache
def _read(path: Path, written: int) -> dict[str, Content]:
    """written: so that a file that has changed is read again."""
    try:
        rows = [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]
        return {name_of(row["identity"]): Content(row["identity"], row["summary"], row.get("metrics")) for row in rows}
    except (lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no packed runs, or damaged ({error}); move it away") from None


def name_of(identity: dict[str, Any]) -> str:
    """What the run's folder is called."""
    return from_dict(identity).run_name(identity)


def curve_in(path: Path) -> Curve | None:
    """What is packed of a metrics.csv; None where there is none."""
    if not path.exists():
        return None
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    columns = zip(header, zip(*rows, strict=True), strict=True)
    return {name: ",".join(values) for name, values in columns if name not in TRIGGER_COLUMNS}


def as_metrics(curve: Curve) -> pd.DataFrame:
    """The table that a folder's metrics.csv gives, without `TRIGGER_COLUMNS`."""
    rows = zip(*(values.split(",") for values in curve.values()), strict=True)
    text = "\n".join([",".join(curve), *map(",".join, rows)])
    return pd.read_csv(io.StringIO(text))
