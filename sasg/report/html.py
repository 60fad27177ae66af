"""The report: one HTML file with everything that was run, which needs no network.

Its looks and its behaviour are in page/; here is what it shows, as plain data from run folders: the very tables that
are written beside the runs, and the series of runs that are behind them.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.report.curves import frame, upload_shares
from sasg.report.names import METRICS, TRIGGER_COLUMNS, method_name, task_name
from sasg.report.published import measured_by_method, published
from sasg.report.runs import ENDED, Entry, Run
from sasg.report.series import Series, all_series, by_task, metric_of
from sasg.report.style import Look, looks
from sasg.report.times import links, seconds
from sasg.report.writing import Row, Table, made_on
from sasg.training.commands import repeat_command
from sasg.training.progress import counted
from sasg.training.run_folder import write_text

_PAGE = Path(__file__).parent / "page"
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}
_COLUMNS = ("iteration", "epoch", "training_loss", "rounds", "paper_bits", "uplink_bits", "real_bits")
_HEAT_MAP_BINS = 60


@dataclass(frozen=True)
class Part:
    """What belongs together on the page: a study, or the runs of a folder."""

    name: str
    entries: Sequence[Entry]
    tables: Sequence[Table]


@dataclass(frozen=True)
class Page:
    """What the page says besides its numbers."""

    title: str
    introduction: str  # HTML
    again: Sequence[str]  # commands that make all of it once more


def write(page: Page, parts: Sequence[Part], path: Path) -> str:
    """Write the report on these runs, and on those that are missing; returns what to print."""
    from plotly.offline import get_plotlyjs

    found = contents(parts, path.parent)
    data = json.dumps(found | {"again": "\n".join(page.again)}, separators=(",", ":"), allow_nan=False)
    pieces = {
        "TITLE": page.title,
        "INTRODUCTION": page.introduction,
        "STYLE": (_PAGE / "report.css").read_text(),
        "SCRIPT": (_PAGE / "report.js").read_text(),
        "PLOTLY": get_plotlyjs(),
        "DATA": data.replace("<", "\\u003c"),
    }
    text = (_PAGE / "report.html").read_text()
    for name, piece in pieces.items():
        text = text.replace(f"@@{name}@@", piece)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return f"written: {path} ({len(text.encode()) / 1e6:.1f} MB, {counted(len(found['runs']), 'run')})"


def contents(parts: Sequence[Part], folder: Path) -> dict[str, Any]:
    """All that the page shows. folder: where it lies; links to runs start there."""
    views = [(part.name, series) for part in parts for series in by_task(all_series(part.entries)).values()]
    times = Counter(series[0].task for _, series in views)
    runs: dict[str, tuple[Run, str]] = {}
    for _, series in views:
        for one in series:
            for run in _runs(one):
                runs.setdefault(run.path.name, (run, one.label))
    return {
        "links": list(links()),
        "views": [_view(name, series, is_one=times[series[0].task] == 1) for name, series in views],
        "runs": {name: _run(run, label, folder) for name, (run, label) in runs.items()},
        "tables": [_table(table, part.name) for part in parts for table in part.tables],
    }


def _runs(one: Series) -> list[Run]:
    """Whatever is there of its runs, finished or not."""
    return [entry.found for entry in one.entries if entry.found]


def _view(name: str, series: Sequence[Series], is_one: bool) -> dict[str, Any]:
    """What a chart shows: a task of a part."""
    appearance = looks(series)
    task = series[0].task
    baselines = {one.config.task.baseline.value for one in series if one.config.task.baseline}
    return {
        "label": task_name(task) + ("" if is_one else f" ({name})"),
        "task": task,
        "part": name,
        "metric": metric_of(series),
        "baselines": sorted(baselines),
        "finished": sum(one.num_finished for one in series),
        "planned": sum(one.num_planned for one in series),
        "series": [_series(one, appearance[one.label]) for one in series],
        "made": made_on(series),
    }


def _series(one: Series, look: Look) -> dict[str, Any]:
    return {
        "method": one.method,
        "label": one.label,
        "color": look.color,
        "dash": _DASHES.get(look.line, "longdashdot") if isinstance(look.line, str) else "dot",
        "symbol": _SYMBOLS.get(look.marker, "x"),
        "status": one.status,
        "runs": [run.path.name for run in one.drawn],
    }


def _run(run: Run, label: str, folder: Path) -> dict[str, Any]:
    summary, identity = run.summary, run.identity
    skipped = summary.get("skipped_share")
    return {
        "task": identity["task"]["name"],
        "label": label,
        "seed": identity["seed"],
        "status": run.words,
        "ended": run.status in ENDED,
        "crossing": run.crossing["rounds"] if run.crossing else None,
        "has_baseline": identity["task"].get("baseline") is not None,
        "metric": (identity["task"].get("baseline") or {}).get("metric"),
        "skipped": None if skipped is None else _short(skipped),
        "device": identity["device"],
        "commit": summary.get("commit"),
        "folder": Path(os.path.relpath((run.packed or run.path).absolute(), folder.absolute())).as_posix(),
        "command": repeat_command(run.path, packed=run.packed),
        "identity": identity,
        "summary": {key: summary.get(key) for key in ("device", "precision", "data", "versions", "cluster")},
        **_curves(run),
        "uploads": _uploads(run),
    }


def _curves(run: Run) -> dict[str, Any]:
    """Its metrics as columns, and seconds by link; nothing where there are none."""
    if not run.has_curve:
        return {"columns": {"iteration": []}, "seconds": {name: [] for name in links()}}
    table = frame(run)
    metrics = [name for name in table if name.startswith("top") or name in METRICS]
    table["uplink_bits_int32"] = uplink_bits(table, "int32")
    triggers = [name for name in TRIGGER_COLUMNS if name in table and table[name].notna().any()]
    workers = run.identity["cluster"]["workers"]
    times = {name: seconds(table, link, workers).sum(axis=1) for name, link in links().items()}
    columns = [*_COLUMNS, "uplink_bits_int32", *metrics, *triggers]
    return {
        "columns": {name: [_short(value) for value in table[name]] for name in columns},
        "seconds": {name: [_short(value) for value in time] for name, time in times.items()},
    }


def _uploads(run: Run) -> list[list[float]] | None:
    if not (run.path / "uploads.npz").exists() or not run.has_rows:
        return None
    shares = upload_shares(run, _HEAT_MAP_BINS)
    return None if (shares == 1).all() else [[_short(share) for share in row] for row in np.round(shares, 2)]


def _table(table: Table, part: str) -> dict[str, Any]:
    """A table as it is written, each row with the names of its runs; its sections below."""
    return {
        "title": table.caption,
        "part": part,
        "note": table.notes,
        "made": made_on([row.series for row in table.rows if row.series]),
        "header": table.header,
        "rows": [
            {"cells": row.cells, "runs": [run.path.name for run in _runs(row.series)] if row.series else []}
            for row in table.rows
        ],
        "sections": [_table(section, part) for section in table.sections],
    }


def table3(path: Path) -> Table:
    """Table III, published and measured (path: our table3.csv, if it is there)."""
    header = ("Task", "Method", "Communication, paper", "measured", "modelled", "Extra computation, paper", "measured")
    header += ("Extra server memory, paper", "measured")
    ours = measured_by_method(path)
    rows = []
    for (task, method), paper in published("table3").items():
        own = ours.get(method, {})
        cells = [task_name(task), method_name(method), _unit(paper["communication_seconds"], "s")]
        cells += [_unit(own.get("communication_s_measured"), "s") or "not measured"]
        cells += [_unit(own.get("communication_s_modelled"), "s"), _unit(paper["extra_computation_seconds"], "s")]
        cells += [_unit(own.get("extra_computation_s_measured"), "s"), _unit(paper["extra_server_memory_mib"], "MiB")]
        rows.append(Row((*cells, _unit(own.get("extra_memory_MiB_measured"), "MiB")), {}))
    note = "ResNet18 on CIFAR-10, ten workers, 1 Gbit/s from each, 100 iterations. Measured times are from real links; "
    note += "modelled ones follow from the number of bits. make reproduce-table3 measures them.\n"
    return Table("Table III: time on real links", header, tuple(rows), note)


def _unit(text: str | None, unit: str) -> str:
    return f"{float(text):,.2f} {unit}" if text else ""


def _short(value: float) -> float | int | None:
    """Six significant digits, as few characters as possible."""
    if not np.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded == int(rounded) else rounded
