"""A finished run once more: the command that does it."""

import shlex
from pathlib import Path

_INTO = "again"


def repeat_command(folder: Path | str, into: str = _INTO) -> str:
    """The exact command, for a shell, that repeats the run in `folder` below `into` and compares the two."""
    return shlex.join(["python", "-m", "sasg", str(Path(folder) / "config.yaml"), "--into", into])
