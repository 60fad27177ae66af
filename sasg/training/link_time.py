"""How long a run's communication would take on links that are not there, for the end of a run."""

import csv
import json
from pathlib import Path

from sasg.cluster.accounting.links import Link
from sasg.config import Config
from sasg.parts import build
from sasg.training.progress import counted


def link_time(folder: Path, config: Config) -> str:
    """A line about the run in `folder` under the configuration's link: in all, and up to the baseline."""
    link: Link = build("link", config.link, Link)
    path = folder / "metrics.csv"
    with path.open(newline="") as file:
        rows = [_counts(row) for row in csv.DictReader(file)]
    seconds = [sum(at.values()) for at in link.seconds_at(rows, config.cluster.workers)]
    words = f"{folder.name}: {seconds[-1]:,.4g} s of communication in {counted(rows[-1]['iteration'], 'iteration')}"
    if crossing := json.loads((folder / "summary.json").read_text())["crossing"]:
        position = [row["iteration"] for row in rows].index(crossing["iteration"])
        words += f", {seconds[position]:,.4g} s to the baseline"
    return f"{words} (modelled: {link})"


def _counts(row: dict[str, str]) -> dict[str, int]:
    """The columns of the ledger, and the iteration."""
    return {key: int(value) for key, value in row.items() if key in ("iteration", "rounds") or "_bits" in key}
