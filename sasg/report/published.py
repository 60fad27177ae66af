"""The paper's numbers, from results/paper/*.csv, and ours that are set beside them."""

import csv
from pathlib import Path

from sasg.errors import UserError
from sasg.places import PAPER


def published(name: str) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of a published table by (task, method), as text; the task is empty where the table has none.

    UserError: there is no such table here.
    """
    path = PAPER / f"{name}.csv"
    if not path.exists():
        raise UserError(f"{path}: the published numbers of {name!r} are not there; they are part of the repository")
    return {(row.get("task", ""), row["method"]): row for row in _rows(path)}


def measured_by_method(path: Path) -> dict[str, dict[str, str]]:
    """Rows of our Table III by method, as text; none where nothing was measured."""
    return {row["method"]: row for row in _rows(path)} if path.exists() else {}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
