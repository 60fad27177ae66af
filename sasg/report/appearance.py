"""What a method's YAML says about tables and figures: its `label` and its `look`. No run depends on them."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sasg.errors import UserError
from sasg.places import files

APPEARANCE = ("label", "look")
"""Keys of a file of conf/algorithm that are no options of the method."""

_LOOK = {"color": r"#[0-9a-fA-F]{6}", "marker": r"[osD^v<>pPX*hd]", "line": r"-|--|-\.|:"}
_MEANT = {"color": '"#rrggbb"', "marker": "one of o s D ^ v < > p P X * h d", "line": "one of - -- -. :"}


@dataclass(frozen=True)
class Appearance:
    """What a method is called, and how it is drawn; None where its file leaves that open."""

    label: str | None = None
    color: str | None = None  # "#rrggbb"
    marker: str | None = None  # matplotlib's letter
    line: str | None = None  # matplotlib's, e.g. --

    @property
    def look(self) -> tuple[str | None, str | None, str | None]:
        """(color, marker, line)"""
        return self.color, self.marker, self.line


def appearances() -> dict[str, Appearance]:
    """By method, for those whose file of conf/algorithm (the suite's or a user's own) says anything. UserError."""
    return _read(tuple(files("algorithm").values()))


@cache
def _read(paths: tuple[Path, ...]) -> dict[str, Appearance]:
    found = {}
    for path in paths:
        values = _load(path)
        if values.keys() & set(APPEARANCE):
            found[str(values.get("name", path.stem))] = _appearance(str(path), values)
    return found


def _load(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    return values if isinstance(values, dict) else {}


def _appearance(where: str, values: dict[str, Any]) -> Appearance:
    look = values.get("look") or {}
    if not isinstance(look, dict) or set(look) - set(_LOOK):
        raise UserError(f"{where}: look={look}: must be a mapping with some of {', '.join(_LOOK)}")
    for key, value in look.items():
        if not re.fullmatch(_LOOK[key], str(value)):
            raise UserError(f"{where}: look.{key}={value}: must be {_MEANT[key]}")
    label = values.get("label")
    return Appearance(None if label is None else str(label), **look)
