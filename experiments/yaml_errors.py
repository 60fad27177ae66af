"""YAML files that cannot be read, told in one line: which file, which line, what is wrong."""

import os
from pathlib import Path

import yaml

from sasg.places import CONF


def about_yaml(error: Exception) -> str | None:
    """The file, the line and what is wrong there, if an exception is about a YAML file; else None."""
    if isinstance(error, UnicodeDecodeError):
        return _about_encoding()
    if isinstance(error, yaml.reader.ReaderError):
        line = Path(error.name).read_text(encoding="utf-8")[: error.position].count("\n") + 1
        return f"{error.name}:{line}: the character {chr(error.character)!r} is not allowed in YAML; take it out"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if not isinstance(error, yaml.MarkedYAMLError) or mark is None:
        return None
    if r"'\t'" in (error.problem or ""):
        problem = "a tab, which YAML does not take; indent with spaces"
    else:
        problem = " ".join(" ".join(filter(None, (error.context, error.problem))).split())
    return f"{mark.name}:{mark.line + 1}: {problem}"


def _about_encoding() -> str | None:
    """The first file of the folders that Hydra searches that is not UTF-8: the exception does not name it."""
    for folder in (os.environ.get("SASG_CONF", ""), CONF):
        for path in sorted(Path(folder).rglob("*.yaml")) if folder else ():
            try:
                path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                line = path.read_bytes()[: error.start].count(b"\n") + 1
                return f"{path}:{line}: is not in UTF-8 (byte 0x{error.object[error.start]:02x}); save it in UTF-8"
            except OSError:
                continue
    return None
