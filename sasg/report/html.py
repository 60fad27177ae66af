"""The report: one HTML file with everything that was run, which needs no network.

Its looks and its behaviour are in page/; here is what it shows, as plain data from run folders.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sasg.cluster.ledger import uplink_bits
from sasg.report import cost_table
from sasg.report.crossing_table import Cell
from sasg.report.curves import TRIGGER_COLUMNS, Series, all_series, frame, metric_of, settings, upload_shares
from sasg.report.names import METRICS, method_name, task_name
from sasg.report.published import published
from sasg.report.runs import Entry, Run
from sasg.report.style import Look, looks
from sasg.report.times import links, seconds
from sasg.training.repeat import repeat_command
from sasg.training.run_folder import write_text

_PAGE = Path(__file__).parent / "page"
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
_COLUMNS = ("iteration", "epoch", "training_loss", "rounds", "paper_bits", "uplink_bits", "real_bits")
_HEAT_MAP_BINS = 60

def write(entries: Sequence[Entry], path: Path, table3: Path) -> str:
    """Write the report on these runs, and on those that are missing; returns what to print.

    table3: our measured Table III, if it is there.
    """
    from plotly.offline import get_plotlyjs

    data = json.dumps(contents(entries, table3), separators=(",", ":"), allow_nan=False)
    parts = {
        "STYLE": (_PAGE / "report.css").read_text(),
        "SCRIPT": (_PAGE / "report.js").read_text(),
        "PLOTLY": get_plotlyjs(),
        "DATA": data.replace("<", "\\u003c"),
    }
    text = (_PAGE / "report.html").read_text()
    for name, part in parts.items():
        text = text.replace(f"@@{name}@@", part)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return f"written: {path} ({len(text.encode()) / 1e6:.1f} MB, {sum(1 for e in entries if e.run)} runs)"


def contents(entries: Sequence[Entry], table3: Path) -> dict[str, Any]:
    """All that the page shows."""
    series = all_series(entries)
    appearance = looks(series)
    tasks = list(dict.fromkeys(one.task for one in series))
    names = {run.path.name: one.label for one in series for run in one.runs}
    return {
        "links": list(links()),
        "tasks": [_task(task, [one for one in series if one.task == task]) for task in tasks],
        "series": [_series(one, appearance[one.label]) for one in series],
        "runs": {
            entry.run.path.name: _run(entry.run, names[entry.run.path.name])
            for entry in entries
            if entry.run and entry.run.path.name in names
        },
        "tables": [_table2(entries), _table1(series), _table3(table3)],
    }


def _task(task: str, series: Sequence[Series]) -> dict[str, Any]:
    baseline = series[0].config.task.baseline
    return {
        "name": task,
        "label": task_name(task),
        "metric": metric_of(series),
        "baseline": baseline.value if baseline else None,
        "finished": sum(len(one.runs) for one in series),
        "planned": sum(one.num_planned for one in series),
    }


def _series(one: Series, look: Look) -> dict[str, Any]:
    return {
        "task": one.task,
        "method": one.method,
        "label": one.label,
        "color": look.color,
        "dash": _DASHES.get(look.line, "longdashdot") if isinstance(look.line, str) else "dot",
        "symbol": _SYMBOLS.get(look.marker, "x"),
        "planned": one.num_planned,
        "runs": [run.path.name for run in one.runs],
    }


def _run(run: Run, label: str) -> dict[str, Any]:
    table, summary = frame(run), run.summary
    metrics = [name for name in table if name.startswith("top") or name in METRICS]
    table["uplink_bits_int32"] = uplink_bits(table, "int32")
    columns = [*_COLUMNS, "uplink_bits_int32", *metrics, *(c for c in TRIGGER_COLUMNS if table[c].notna().any())]
    workers = run.identity["cluster"]["workers"]
    times = {name: seconds(table, link, workers).sum(axis=1) for name, link in links().items()}
    return {
        "task": run.identity["task"]["name"],
        "label": label,
        "seed": run.identity["seed"],
        "status": summary["status"],
        "crossing": (summary.get("crossing") or {}).get("rounds"),
        "skipped": _short(summary["skipped_share"]) if summary.get("skipped_share") is not None else None,
        "device": run.identity["device"],
        "commit": summary.get("commit"),
        "folder": f"results/runs/{run.path.name}",
        "command": repeat_command(f"results/runs/{run.path.name}"),
        "identity": run.identity,
        "summary": {key: summary.get(key) for key in ("device", "precision", "data", "versions", "cluster")},
        "columns": {name: [_short(value) for value in table[name]] for name in columns},
        "seconds": {name: [_short(value) for value in time] for name, time in times.items()},
        "uploads": _uploads(run),
    }


def _uploads(run: Run) -> list[list[float]] | None:
    if not (run.path / "uploads.npz").exists():
        return None
    shares = upload_shares(run, _HEAT_MAP_BINS)
    return None if (shares == 1).all() else [[_short(share) for share in row] for row in np.round(shares, 2)]


def _table2(entries: Sequence[Entry]) -> dict[str, Any]:
    """Rounds and bits to the baseline, published and ours; a row opens its runs."""
    header = ["Task", "Method", "Rounds, paper", "Rounds, ours", "95 % interval", "Range", "Ours / paper"]
    header += ["Bits, paper", "Bits, ours", "With int32 indices", "With log2 indices"]
    header += ["Final accuracy", "Skipped", "Runs"]
    numbers = published("table2")
    rows = []
    for (task, method), group in _cells(entries).items():
        cell = Cell(task, method, group, numbers.get((task, method), {}))
        rounds, ratio = cell.statistics("rounds"), cell.ratio("rounds")
        row = [task_name(task), method_name(method)]
        row += [_form(cell.published_number("rounds"), ","), _mean(cell, "rounds", ",.0f")]
        row += ["" if rounds.low is None else f"{rounds.low:,.0f} – {rounds.high:,.0f}"]
        row += ["" if rounds.minimum is None else f"{rounds.minimum:,.0f} – {rounds.maximum:,.0f}"]
        row += ["" if ratio is None else f"{ratio:.2f}", _form(cell.published_number("paper_bits"), ".2E")]
        row += [_mean(cell, name, ".2E") for name in ("paper_bits", "uplink_bits_int32", "uplink_bits_log2")]
        row += [_mean(cell, name, ".2%") for name in ("final_accuracy", "skipped_share")]
        rows.append({"cells": [*row, cell.status], "task": task, "label": method_name(method)})
    note = "Rounds and uplink bits up to the first evaluation above the baseline accuracy; means over seeds. The paper "
    note += "counts 32 bits for each uploaded value and nothing else; the next columns add indices and flags."
    return {"title": "Table II: rounds and bits to the baseline accuracy", "note": note, "header": header, "rows": rows}


def _cells(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """Entries by task and method: those with a baseline accuracy, and of each method its first settings alone.

    Where both devices have the same runs, those on the CPU, as in the study's table.
    """
    cells: dict[tuple[str, str], list[Entry]] = {}
    series = sorted(all_series(list(entries)), key=lambda one: one.config.device)
    kept = {(one.task, one.method): one for one in reversed(series)}
    for entry in entries:
        one = kept[entry.task, entry.method]
        baseline = entry.config.task.baseline
        if baseline is None or baseline.accuracy is None or settings(entry.config) != settings(one.config):
            continue
        if entry.run is None or entry.run in one.runs:
            cells.setdefault((entry.task, entry.method), []).append(entry)
    return cells


def _table1(series: Sequence[Series]) -> dict[str, Any]:
    rows = [
        {"cells": cost_table.row(cost_table.numbers(one)), "task": one.task, "label": one.label} for one in series
    ]
    for one, row in zip(series, rows, strict=True):
        row["cells"][1] = one.label
    note = "Per iteration. M workers, d parameters, k uploaded values, S workers that upload; downlink to every worker."
    return {"title": "Table I: cost of one iteration", "note": note, "header": cost_table.HEADER, "rows": rows}


def _table3(path: Path) -> dict[str, Any]:
    header = ["Task", "Method", "Communication, paper", "Communication, measured", "modelled"]
    header += ["Extra computation, paper", "measured", "Extra server memory, paper", "measured"]
    ours: dict[str, dict[str, str]] = {}
    if path.exists():
        with path.open(newline="") as file:
            ours = {row["method"]: row for row in csv.DictReader(file)}
    rows = []
    for (task, method), paper in published("table3").items():
        own = ours.get(method, {})
        cells = [task_name(task), method_name(method), _unit(paper["communication_seconds"], "s")]
        cells += [_unit(own.get("communication_s_measured"), "s") or "not measured"]
        cells += [_unit(own.get("communication_s_modelled"), "s"), _unit(paper["extra_computation_seconds"], "s")]
        cells += [_unit(own.get("extra_computation_s_measured"), "s"), _unit(paper["extra_server_memory_mib"], "MiB")]
        rows.append({"cells": [*cells, _unit(own.get("extra_memory_MiB_measured"), "MiB")]})
    note = "ResNet18 on CIFAR-10, ten workers, 1 Gbit/s from each, 100 iterations. Measured times are from real links; "
    note += "modelled ones follow from the number of bits. make reproduce-table3 measures them."
    return {"title": "Table III: time on real links", "note": note, "header": header, "rows": rows}


def _unit(text: str | None, unit: str) -> str:
    return f"{float(text):,.2f} {unit}" if text else ""


def _mean(cell: Cell, quantity: str, form: str) -> str:
    found = cell.statistics(quantity)
    if not found.n:
        return "not run"
    return f"{found.n - found.num_missing} of {found.n}" if found.mean is None else _form(found.mean, form)


def _form(value: float | None, form: str) -> str:
    return "" if value is None else format(int(value) if form == "," else value, form).replace("%", " %")


def _short(value: float) -> float | int | None:
    """Six significant digits, as few characters as possible."""
    if not np.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded == int(rounded) else rounded
