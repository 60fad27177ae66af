"""Where in somebody's own files an error comes from: `file:line`, for messages of one line."""

import importlib
import inspect
import os
import site
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

_SUITE = Path(__file__).resolve().parent
_FOREIGN = tuple(
    os.path.realpath(folder) + os.sep
    for folder in (
        *(_SUITE.parent / name for name in (_SUITE.name, "experiments", "scripts")),
        *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
)


def fault_of_user(error: BaseException) -> str | None:
    """What went wrong, with the place in a user's file that it comes from; None if no such file has to do with it.

    That is the last line of the traceback that is in such a file; else the class of the last object at work that is;
    else those of the parts that such an object consists of: they gave something that cannot be worked with.
    """
    culprit = getattr(error, "culprit", None)
    places = _places_of_syntax(error) or _places_in(error.__traceback__) or _places_among(culprit)
    return f"{', '.join(places)}: {described(error)}" if places else None


def described(error: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = (text.strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def is_users(path: str | None) -> bool:
    """Whether a file of code belongs to neither the suite, Python nor an installed package."""
    return bool(path) and os.path.exists(path) and not os.path.realpath(path).startswith(_FOREIGN)


def place_of(kind: type, text: str = "") -> str:
    """`file:line` of a class, or of the first line of its body that begins with `text`; its name without a source."""
    try:
        lines, first = inspect.getsourcelines(kind)
        path = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        return f"{kind.__module__}.{kind.__qualname__}"
    offset = next((i for i, line in enumerate(lines) if text and line.strip().startswith(text)), 0)
    return f"{shortened(path)}:{first + offset}"


def shortened(path: str | os.PathLike) -> str:
    """A path relative to the current folder where that is shorter to read: below it."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _places_of_syntax(error: BaseException) -> list[str]:
    if isinstance(error, SyntaxError) and is_users(error.filename):
        return [f"{shortened(error.filename)}:{error.lineno}"]
    return []


def _places_in(trace: TracebackType | None) -> list[str]:
    frames = [(frame, line) for frame, line in traceback.walk_tb(trace)][::-1]
    for frame, line in frames:
        if is_users(frame.f_code.co_filename):
            return [f"{shortened(frame.f_code.co_filename)}:{line}"]
    at_work = (_places_among(frame.f_locals.get("self")) for frame, _ in frames)
    return next((places for places in at_work if places), [])


def _places_among(own: Any) -> list[str]:
    """The class of an object, and of the parts that it consists of, where these are a user's."""
    kinds = [type(own)]
    if callable(descendants := getattr(own, "descendants", None)):
        kinds += [type(part) for _, part in descendants()]
    return [f"{place_of(kind)} ({kind.__name__})" for kind in dict.fromkeys(kinds) if is_users(_file(kind))]


def _file(kind: type) -> str | None:
    return getattr(importlib.import_module(kind.__module__), "__file__", None)
