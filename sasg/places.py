"""Where the suite's own folders are, and a user's: configurations and published numbers.

In a checkout conf/ and results/paper/ lie beside the package; an installed package has copies of them inside.
"""

import os
import re
from pathlib import Path

from sasg.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str, beside: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / beside


CONF = _shipped("conf", "conf")
PAPER = _shipped("paper", "results/paper")


def own_conf() -> Path:
    """A user's own folder of configurations: SASG_CONF, else conf/ beside the call."""
    return Path(os.environ.get("SASG_CONF") or "conf")


def files(group: str) -> dict[str, Path]:
    """The YAML files of a group (a folder of conf/) by name: the suite's, then a user's own."""
    found = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    for path in sorted((own_conf() / group).glob("*.yaml")):
        found.setdefault(path.stem, path)
    return found


def refuse_hidden() -> None:
    """UserError: a user's file has the name of one of the suite's, which would be used in its place."""
    own = own_conf()
    for path in sorted(own.glob("**/*.yaml")) if own.is_dir() else ():
        ours = CONF / path.relative_to(own)
        if ours.is_file() and not ours.samefile(path) and ours.read_bytes() != path.read_bytes():
            raise UserError(f"{path}: the suite has a file of this name, which is used instead; give yours another")


def description(path: Path) -> str:
    """The first sentence of the comment that a YAML file begins with; empty without one."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            words.append(line.lstrip("# ").strip())
    return re.split(r"(?<=[\w)])(?:\.(?= [A-Z])|[.:]$)", " ".join(words))[0]
