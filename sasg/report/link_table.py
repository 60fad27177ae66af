"""What it takes to reach the baseline accuracy when everything is counted: real bits both ways, seconds on links."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sasg.report.curves import CODE, Series, all_series
from sasg.report.names import task_name
from sasg.report.runs import Entry, Run
from sasg.report.statistics import over_seeds
from sasg.report.tables import Table
from sasg.report.times import links, seconds_to_baseline

_CAPTION = "To the baseline accuracy, everything counted"
_NOTES = f"""Means over seeds, up to the first evaluation above the baseline; where a run never crosses it, the cell
says how many do. Uplink: values, indices ({CODE}: the fewest whole bits that number the entries of a tensor), flags.
Downlink: the server's update to every worker, dense or on its support, whichever is shorter. Seconds: communication
alone, upload, flags and download, modelled from the ledger on the links of conf/link; no computation.
"""


def write(entries: Sequence[Entry], folder: Path, file: str) -> str:
    """Write FILE.csv, FILE.md and FILE.tex; returns what to print."""
    names = [name for name, link in links().items() if link.up_bits_per_second]
    header = ["Task", "Method", "Uplink bits", "Downlink bits", *(f"Seconds {name}" for name in names), "Runs"]
    found = [_numbers(one, names) for one in all_series(entries)]
    rows = [_cells(row) for row in found]
    return Table(found, header, rows, _CAPTION, _NOTES).write(folder, file)


def _numbers(one: Series, names: Sequence[str]) -> dict[str, Any]:
    runs = one.runs  # one that diverged never crosses
    quantities = {
        "uplink_bits": [run.uplink_bits_to_baseline(CODE) for run in runs],
        "downlink_bits": [_downlink_bits(run) for run in runs],
        **{f"seconds_{name}": [seconds_to_baseline(run, links()[name]) for run in runs] for name in names},
    }
    crossings = over_seeds(quantities["uplink_bits"])
    return {
        "task": one.task,
        "method": one.label,
        **{name: over_seeds(values).mean for name, values in quantities.items()},
        "n_crossing": crossings.n - crossings.num_missing,
        "n": len(runs),
        "n_planned": one.num_planned,
    }


def _downlink_bits(run: Run) -> int | None:
    crossing = run.summary["crossing"]
    return crossing and crossing[f"downlink_unicast_bits_{CODE}"]


def _cells(row: dict[str, Any]) -> list[str]:
    values = {key: value for key, value in row.items() if key.endswith("_bits") or key.startswith("seconds_")}
    if row["n"] == 0:
        cells = ["not run"] * len(values)
    elif row["n_crossing"] < row["n"]:
        cells = [f"{row['n_crossing']} of {row['n']} cross"] * len(values)
    else:
        cells = [f"{v:.3E}" if key.endswith("_bits") else f"{v:,.0f}" for key, v in values.items()]
    return [task_name(row["task"]), row["method"], *cells, f"{row['n']} of {row['n_planned']}"]
