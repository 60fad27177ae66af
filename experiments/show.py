"""What a run is, how it went, what came out, and the files that say more.

sasg show results/runs/mnist-sasg-s1-b011dc90
sasg show mnist-sasg         # in results/runs, by a part of the name: one run, or a line for each of several
sasg show                    # a line for each run there, with the settings in which those of one name differ
sasg show FILE.jsonl.xz      # the same of packed runs
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.several import told_apart
from sasg.command_line import Parser
from sasg.config import flat
from sasg.errors import UserError
from sasg.training.commands import repeat_command

_APART = ("task", "seed", "data_sha256")
_PACKED = ".jsonl.xz"


class _Run(NamedTuple):
    """What there is of a run."""

    path: Path  # its folder; of a packed one, where that would be
    identity: dict[str, Any]
    summary: dict[str, Any]
    damaged: str = ""  # the file that cannot be read
    packed: Path | None = None  # the file that it is from


def main() -> int:
    """Print what the command line names."""
    parser = Parser(__doc__)
    parser.add_argument("run", nargs="?", default="", metavar="RUN", help="a run's folder, or a part of its name")
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="default: results/runs")
    options = parser.parse_args()
    found = _found(options.run, options.runs_dir)
    print("\n".join(_lines(found)) if len(found) > 1 else _told(found[0]))
    return 0


def _found(name: str, runs_dir: Path) -> list[_Run]:
    """The runs that are meant. UserError: there is none."""
    path = Path(name)
    if name and (path / "config.json").is_file():
        return [_in_folder(path)]
    if name and path.is_dir():
        name, runs_dir = "", path
    files = sorted(runs_dir.glob(f"*{_PACKED}"))
    if name.endswith(_PACKED) and path.is_file():
        name, runs_dir, files = "", path, [path]
    found = [_in_folder(file.parent) for file in sorted(runs_dir.glob(f"*{name}*/config.json"))]
    found += [run for file in files for run in _in_file(file) if name in run.path.name]
    if not found:
        what = f"{name}: no such run in {runs_dir}" if name else f"{runs_dir}: there is no run"
        raise UserError(f"{what}; give a run's folder, a part of its name, or --runs-dir DIR")
    return found


def _in_folder(path: Path) -> _Run:
    identity, summary = _read(path / "config.json"), _read(path / "summary.json")
    damaged = "summary.json" if summary is None else ""
    if not identity or not isinstance(identity.get("task"), dict):
        identity, damaged = {}, "config.json"
    return _Run(path, identity, summary or {}, damaged)


def _in_file(path: Path) -> Iterator[_Run]:
    from sasg.report.packed import unpacked  # it needs torch, which takes seconds to import

    for name, (identity, summary, *_) in unpacked(path).items():
        yield _Run(path.parent / name, identity, summary, packed=path)


def _read(path: Path) -> dict[str, Any] | None:
    """The contents of a JSON file of a run; {} where it is not there (yet), None where it is damaged.

    OSError: it cannot be read now.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _lines(runs: list[_Run]) -> list[str]:
    settings = [{key: value for key, value in flat(run.identity).items() if key != "data_sha256"} for run in runs]
    apart = told_apart([run.path.name.rpartition("-")[0] for run in runs], settings)
    return [_line(run, words) for run, words in zip(runs, apart, strict=True)]


def _line(run: _Run, apart: str) -> str:
    name = f"{run.path.name} ({apart})" if apart else run.path.name
    if run.damaged:
        return f"{name}: {run.damaged} is damaged"
    reason = f" ({run.summary['reason']})" if run.summary.get("reason") else ""
    told = [run.summary.get("status", "not finished") + reason, *_results(run.summary)]
    return f"{name}: {', '.join(told)}"


def _results(summary: dict[str, Any]) -> list[str]:
    """The metric at the end and the rounds, in words."""
    final, totals = summary.get("final") or {}, summary.get("totals") or {}
    words = [f"validation loss {final['loss']:.4f}"] if "loss" in final else []
    words += [f"top-1 {final['top1']:.2%}"] if "top1" in final else []
    words += [f"{key} {final[key]:.3g}" for key in ("objective_error", "gradient_norm") if key in final]
    return words + ([f"{totals['rounds']:,} rounds"] if totals else [])


def _told(run: _Run) -> str:
    summary, identity = run.summary, run.identity
    place = f"{run.path.name}, packed in {run.packed}" if run.packed else str(run.path)
    sections = [
        (place, [("status", _status(run)), *_outline(summary)]),
        ("settings", _rows({key: value for key, value in identity.items() if key not in _APART})),
        ("task", _rows(identity.get("task", {}))),
        ("at the end", _rows(summary.get("final") or {})),
        ("up to the baseline", _rows(summary.get("crossing") or {})),
        ("in all", _rows(summary.get("totals") or {})),
        ("once more, and compared with this one", _again(run)),
        ("files", [] if run.packed else _files(run.path)),
    ]
    return "\n\n".join(_section(title, rows) for title, rows in sections if rows)


def _status(run: _Run) -> str:
    if run.damaged:
        return f"{run.damaged} is damaged; move the folder away, and the command that began the run does it again"
    if not run.summary:
        return "not finished: the command that began it goes on from its last checkpoint"
    reason = f": {run.summary['reason']}" if run.summary.get("reason") else ""
    return f"{run.summary.get('status', 'not finished')}{reason}"


def _again(run: _Run) -> list[tuple[str, str]]:
    ended = run.summary.get("status") in ("finished", "diverged")
    return [("run", repeat_command(run.path, packed=run.packed))] if ended else []


def _files(path: Path) -> list[tuple[str, str]]:
    return [(file.name, f"{file.stat().st_size:,} bytes") for file in sorted(path.iterdir()) if file.is_file()]


def _outline(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What is said of the run besides its numbers."""
    keys = ("iterations", "num_parameters", "training_seconds", "device", "gradients", "data", "commit", "written")
    return [(key, _text(summary[key])) for key in keys if summary.get(key) is not None]


def _rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, _text(value)) for key, value in flat(values).items()]


def _text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in rows)
    return "\n".join([title, *(f"  {key:<{width}}  {value}" for key, value in rows)])
