"""Command lines that the suite tells its users, so that they can repeat a run."""

import shlex
from pathlib import Path
from typing import Any

INTO = "again"
"""The folder of repetitions."""


def repeat_command(folder: Path | str, into: str = INTO, packed: Path | None = None) -> str:
    """The exact command, for a shell, that repeats the run in `folder` below `into` and compares the two.

    It needs nothing else: with `--into`, `python -m sasg` takes from the folder what `config.json` leaves out.
    packed: the file of packed runs that holds it, in place of the folder.
    """
    original = Path(folder) / "config.json" if packed is None else packed / Path(folder).name
    return shlex.join(["python", "-m", "sasg", str(original), "--into", into])


def said_of_finished(summary: dict[str, Any]) -> str:
    """That a run needs nothing any more, and how it is repeated; summary: as `training.run.run` returns it."""
    folder = Path(summary["folder"])
    words = f"{folder.name}: {summary['status']} already"
    return words if folder.parent.name == INTO else f"{words}; to repeat and compare it: {repeat_command(folder)}"
