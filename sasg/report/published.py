"""The paper's numbers, from results/paper/*.csv."""

import csv

from sasg.errors import UserError
from sasg.places import PAPER


def published(name: str) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of a published table by (task, method), as text; the task is empty where the table has none.

    UserError: there is no such table here.
    """
    path = PAPER / f"{name}.csv"
    if not path.exists():
        raise UserError(f"{path}: the published numbers of {name!r} are not there; they are part of the repository")
    with path.open(newline="") as file:
        return {(row.get("task", ""), row["method"]): row for row in csv.DictReader(file)}
