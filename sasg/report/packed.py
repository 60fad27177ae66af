"""Packed runs: many runs as one compressed file, a line each, with what tables need of them.

A study of dozens of runs would fill the repository with folders. A file NAME.jsonl.xz beside the run folders holds the
`config.json` and `summary.json` of each instead; curves, decisions and times are not in it.
"""

import json
import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sasg.config import from_dict
from sasg.errors import UserError
from sasg.training.run_folder import write_bytes

SUFFIX = ".jsonl.xz"

Content = tuple[dict[str, Any], dict[str, Any]]  # identity, summary


def pack(path: Path, runs: Iterable[Content]) -> int:
    """Write runs into `path`, beside those that are there already (a run of the same name takes their place).

    Equal content gives equal bytes. Returns how many runs the file holds. UserError: its name, or what is there.
    """
    if not path.name.endswith(SUFFIX):
        raise UserError(f"{path}: packed runs are a file NAME{SUFFIX}")
    held = unpacked(path) if path.exists() else {}
    held |= {name_of(identity): (identity, summary) for identity, summary in runs}
    lines = [json.dumps({"identity": held[name][0], "summary": held[name][1]}, sort_keys=True) for name in sorted(held)]
    write_bytes(path, lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=6))
    return len(held)


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
        return {name_of(row["identity"]): (row["identity"], row["summary"]) for row in rows}
    except (lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no packed runs, or damaged ({error}); move it away") from None


def name_of(identity: dict[str, Any]) -> str:
    """What the run's folder is called."""
    return from_dict(identity).run_name(identity)
