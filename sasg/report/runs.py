"""Run folders as results: which one belongs to a configuration, what it says, and what became of it.

Looking one up needs no data: a folder's own config.json names the data and the kind of device it was made with. A run
without a folder may be among the packed ones beside the folders (see `packed`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sasg.config import Config, digest, from_dict
from sasg.errors import UserError
from sasg.report.metrics import read_metrics
from sasg.report.packed import SUFFIX, Content, Curve, as_metrics, curve_in, unpacked
from sasg.training.run_folder import RunFolder, read_identity, read_uploads

ENDED = ("finished", "diverged")


@dataclass(frozen=True)
class Run:
    """A run's folder: one that ended, or what there is of another one."""

    path: Path
    identity: dict[str, Any]  # its config.json
    summary: dict[str, Any]  # its summary.json; of one that has not ended, at least the `status`
    packed: Path | None = None  # the file of packed runs that it is from; then there is no folder
    curve: Curve | None = None  # of a packed run: its metrics, where the file has them

    @property
    def status(self) -> str:
        """finished or diverged, if it ended; else failed, or unfinished: running, stopped, damaged."""
        return self.summary["status"]

    @property
    def words(self) -> str:
        """What became of it, for readers."""
        match self.status:
            case "finished":
                return "finished"
            case "diverged":
                return f"diverged at iteration {self.summary['iterations']:,}"
            case "failed":
                return f"failed ({self.summary['reason']})"
            case "damaged":
                return "damaged (metrics or uploads are not complete)"
        return f"unfinished (iteration {self.metrics['iteration'].iloc[-1] if self.has_rows else 0:,})"

    @property
    def has_rows(self) -> bool:
        """Whether it came to an evaluation, and nothing of it is damaged."""
        if self.packed:
            return self.summary["num_rows"] > 0
        return self.status != "damaged" and (self.path / "metrics.csv").exists()

    @property
    def has_curve(self) -> bool:
        """Whether there are `metrics` of it."""
        return self.curve is not None if self.packed else self.has_rows

    @property
    def metrics(self) -> pd.DataFrame:
        """A row per evaluation (see docs/runs.md). UserError: the run is packed without them, or damaged."""
        if self.packed is None:
            return read_metrics(self.path / "metrics.csv")
        if self.curve is None:
            raise self.lacks("metrics")
        return as_metrics(self.curve)

    @property
    def uploads(self) -> np.ndarray:
        """Who uploaded when, bool [iterations, M]. UserError: the run is packed, which leaves that out."""
        if self.packed is not None:
            raise self.lacks("uploads")
        return read_uploads(self.path / "uploads.npz")

    def lacks(self, what: str) -> UserError:
        """That something is not packed which a part of a report needs."""
        return UserError(
            f"{self.packed}: has no {what} of {self.path.name}, which this part of a report needs; "
            "make the run anew, or leave the part out"
        )

    @property
    def content(self) -> Content:
        """What is packed of it."""
        return Content(self.identity, self.summary, self.curve if self.packed else curve_in(self.path / "metrics.csv"))

    @property
    def crossing(self) -> dict[str, Any] | None:
        """The row of the first evaluation beyond the baseline; None if there is none."""
        return self.summary.get("crossing")


@dataclass(frozen=True)
class Entry:
    """A run that is wanted, and what became of it (`run` None: it has not ended)."""

    config: Config
    run: Run | None
    unfinished: Run | None = None  # what there is of it, where it has not ended

    @property
    def task(self) -> str:
        return self.config.task.name

    @property
    def method(self) -> str:
        return self.config.algorithm["name"]

    @property
    def found(self) -> Run | None:
        """Whatever there is of it."""
        return self.run or self.unfinished

    @property
    def words(self) -> str:
        """The one rule for what a run is: finished, diverged (when), failed (why), unfinished (where), or not run."""
        return self.found.words if self.found else "not run"


def look_up(configs: Sequence[Config]) -> list[Entry]:
    """The runs of these configurations, in their order.

    Where a configuration leaves the device to be chosen, a run on either kind will do, one on the CPU first, since
    it can be repeated bit for bit anywhere. All runs of a task are on the same data: on those that most of them used.
    """
    found = [_runs_of(config) for config in configs]
    ended = [[run for run in runs if run.status in ENDED] for runs in found]
    counts = Counter((run.identity["task"]["name"], run.identity["data_sha256"]) for runs in ended for run in runs)
    data: dict[str, str] = {}
    for task, sha256 in sorted(counts, key=lambda key: (-counts[key], key)):
        data.setdefault(task, sha256)
    entries = []
    for config, runs in zip(configs, found, strict=True):
        alike = [run for run in runs if run.identity["data_sha256"] == data.get(config.task.name, "")]
        run = min((r for r in alike if r.status in ENDED), key=_device, default=None)
        others = [r for r in runs if r.status not in ENDED]
        entries.append(Entry(config, run, None if run else min(others, key=_device, default=None)))
    return entries


def entries_in(paths: Iterable[Path]) -> list[Entry]:
    """The runs in these folders, of one run each or of several by name, and files of packed ones.

    UserError: there is none.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        is_run = (path / "config.json").exists()
        found = [path] if is_run else sorted(file.parent for file in path.glob("*/config.json"))
        packed = _packed_in(path, "") if path.name.endswith(SUFFIX) and path.is_file() else []
        if not found and not packed:
            lacking = "neither a run's folder nor a folder of runs (a run has a config.json), nor a file of packed ones"
            raise UserError(f"{path}: {lacking}")
        runs |= {run.path: run for run in (*map(_readable, found), *packed)}
    return [_entry(run) for run in runs.values()]


def _readable(path: Path) -> Run:
    run = read_run(path)
    if run is None:
        raise UserError(f"{path / 'config.json'}: is damaged; move its folder away")
    return run


def _entry(run: Run) -> Entry:
    config = replace(from_dict(run.identity), runs_dir=str(run.path.parent))
    return Entry(config, run) if run.status in ENDED else Entry(config, None, run)


def read_run(path: Path) -> Run | None:
    """What is in a run's folder; None if it does not say, or not readably, whose it is."""
    identity = read_identity(path)
    if identity is None:
        return None
    folder = RunFolder(path, identity)
    if (summary := folder.summary()) is not None:
        return Run(path, identity, summary)
    if folder.is_damaged():
        return Run(path, identity, {"status": "damaged"})
    told = _told(path / "summary.json")
    return Run(path, identity, told if told.get("status") in ("failed", "stopped") else {"status": "running"})


def _told(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _runs_of(config: Config) -> list[Run]:
    """The runs that have this configuration, on any data and device that it allows."""
    prefix = f"{config.task.name}-{config.algorithm['name']}-s{config.seed}-"
    runs_dir = Path(config.runs_dir)
    runs = [read_run(path) for path in sorted(runs_dir.glob(f"{prefix}*"))]
    runs += [run for file in sorted(runs_dir.glob(f"*{SUFFIX}")) for run in _packed_in(file, prefix)]
    wanted: dict[tuple[str, str], str] = {}  # the digest of the run that it would be, by data and device
    found = []
    for run in filter(None, runs):
        known = data, device = run.identity["data_sha256"], run.identity["device"]
        if config.device not in ("auto", device) or config.data_sha256 not in (None, data):
            continue
        if known not in wanted:
            wanted[known] = digest(config.identity(*known))
        if run.path.name == f"{prefix}{wanted[known][:8]}" and digest(run.identity) == wanted[known]:
            found.append(run)
    return found


def _packed_in(file: Path, prefix: str) -> list[Run]:
    """Those whose names begin so."""
    named = unpacked(file).items()
    return [Run(file.parent / n, c.identity, c.summary, file, c.curve) for n, c in named if n.startswith(prefix)]


def _device(run: Run) -> str:
    return run.identity["device"]
