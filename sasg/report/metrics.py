"""A run's metrics.csv as a table."""

from pathlib import Path

import pandas as pd

from sasg.errors import UserError


def read_metrics(path: Path) -> pd.DataFrame:
    """A row per evaluation (see docs/runs.md), numbers throughout. UserError: it is not so."""
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' own kinds, and what is not UTF-8
        raise _damaged(path, str(error)) from None
    for name in table:
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise _damaged(path, f"its column {name} holds what is no number")
    if not table.index.equals(pd.RangeIndex(len(table))):  # pandas took a column too many for names of rows
        raise _damaged(path, "its rows are longer than its header")
    if "iteration" not in table:
        raise _damaged(path, "it has no column iteration")
    return table


def _damaged(path: Path, how: str) -> UserError:
    return UserError(
        f"{path}: is damaged ({' '.join(how.split())}); move its folder away, and the run can be done again"
    )
