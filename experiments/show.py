"""What a run is, how it went, what came out, and the files that say more.

sasg show results/runs/mnist-sasg-s1-b011dc90
sasg show mnist-sasg         # in results/runs, by a part of the name: one run, or a line for each of several
sasg show                    # a line for each run there
"""

import argparse
import json
from pathlib import Path
from typing import Any

from sasg.errors import UserError
from sasg.training.commands import repeat_command

_APART = ("task", "seed", "data_sha256")


def main() -> int:
    """Print what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help="a run's folder, or a part of its name")
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="default: results/runs")
    options = parser.parse_args()
    found = _found(options.run, options.runs_dir)
    print("\n".join(map(_line, found)) if len(found) > 1 else _told(found[0]))
    return 0


def _found(name: str, runs_dir: Path) -> list[Path]:
    if name and (Path(name) / "config.json").is_file():
        return [Path(name)]
    if name and Path(name).is_dir():
        name, runs_dir = "", Path(name)
    found = sorted(path.parent for path in runs_dir.glob("*/config.json") if name in path.parent.name)
    if not found:
        raise UserError(f"{name or runs_dir}: no such run in {runs_dir}; give its folder, or --runs-dir DIR")
    return found


def _read(path: Path) -> dict[str, Any]:
    """The contents of a JSON file of a run; {} where it is not there (yet), or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _line(path: Path) -> str:
    summary = _read(path / "summary.json")
    reason = f" ({summary['reason']})" if summary.get("reason") else ""
    told = [summary.get("status", "not finished") + reason, *_results(summary)]
    return f"{path.name}: {', '.join(told)}"


def _results(summary: dict[str, Any]) -> list[str]:
    """The metric at the end and the rounds, in words."""
    final, totals = summary.get("final") or {}, summary.get("totals") or {}
    words = [f"validation loss {final['loss']:.4f}"] if "loss" in final else []
    words += [f"top-1 {final['top1']:.2%}"] if "top1" in final else []
    words += [f"{key} {final[key]:.3g}" for key in ("objective_error", "gradient_norm") if key in final]
    return words + ([f"{totals['rounds']:,} rounds"] if totals else [])


def _told(path: Path) -> str:
    summary, identity = _read(path / "summary.json"), _read(path / "config.json")
    sections = [
        (str(path), [("status", _status(summary)), *_outline(summary)]),
        ("settings", list(_flat({key: value for key, value in identity.items() if key not in _APART}))),
        ("task", list(_flat(identity.get("task", {})))),
        ("at the end", _numbers(summary.get("final"))),
        ("up to the baseline", _numbers(summary.get("crossing"))),
        ("in all", _numbers(summary.get("totals"))),
        ("once more, and compared with this one", _again(path, summary)),
        ("files", [(file.name, f"{file.stat().st_size:,} bytes") for file in sorted(path.iterdir()) if file.is_file()]),
    ]
    return "\n\n".join(_section(title, rows) for title, rows in sections if rows)


def _status(summary: dict[str, Any]) -> str:
    if not summary:
        return "not finished: the command that began it goes on from its last checkpoint"
    reason = f": {summary['reason']}" if summary.get("reason") else ""
    return f"{summary['status']}{reason}"


def _again(path: Path, summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [("run", repeat_command(path))] if summary.get("status") in ("finished", "diverged") else []


def _outline(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What is said of the run besides its numbers."""
    keys = ("iterations", "num_parameters", "training_seconds", "device", "gradients", "data", "commit", "written")
    return [(key, _text(summary[key])) for key in keys if summary.get(key) is not None]


def _numbers(values: dict[str, Any] | None) -> list[tuple[str, str]]:
    return [(key, _text(value)) for key, value in (values or {}).items()]


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, _text(value))]
    return rows


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    return "\n".join([title, *(f"  {key:<{width}}  {value}" for key, value in rows)])
