"""What Hydra and OmegaConf refuse, said in one line for somebody who knows neither."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sasg.errors import UserError


def one_line(error: Exception) -> str:
    """What is wrong, where, and what to do."""
    text = str(error) or str(error.__cause__ or type(error).__name__)  # Hydra's own are empty for some of its causes
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={name}: there is none in conf/{group}; {did_you_mean(name, error.options)}"
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if several := re.match("Ambiguous value for argument '(.*)'", text):
        key, _, value = several[1].partition("=")
        lists = f"a list is written {key}=[{value}], a text {typed(key, value)}"
        return f"{several[1]}: add -m to run one after another, or give one value; {lists}"
    cause = error.__cause__
    if text.startswith("Could not override") and isinstance(cause, OmegaConfBaseException) and cause.parent_node:
        return _unknown_key(str(cause.full_key), cause.parent_node._get_root())
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    return " ".join(text.split("Config search path")[0].split())


def refuse_twice(words: Iterable[str]) -> None:
    """UserError: a setting is given twice, of which Hydra would silently take the last."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and key in given:
            raise UserError(f"{key} is given twice ({given[key]}, {word}); leave one out")
        given[key] = word


def typed(key: str, value: str) -> str:
    """What to type in a shell so that Hydra sets `key` to this text."""
    if re.fullmatch(r"[A-Za-z0-9_./:%@+-]+", value):
        return f"{key}={value}"
    return shlex.quote(f"{key}={_quoted(value)}")


def _quoted(value: str) -> str:
    """A text as Hydra's grammar has it: in double quotes; before those in it, backslashes are doubled."""
    return '"' + re.sub(r"(\\*)$", r"\1\1", re.sub(r'(\\*)"', r'\1\1\\"', value)) + '"'


def _unreadable(word: str) -> str:
    """A word that does not follow Hydra's grammar, and how it is typed."""
    key, equals, value = (piece.strip() for piece in word.partition("="))
    if not equals:
        return f"{word}: not of the form key=value{_split_by_the_shell(word)}; see --help"
    if not word.isprintable():
        return f"{key}: the value has characters that cannot be typed (a line break?); leave them out"
    if not re.fullmatch(r"[+~]{0,2}[A-Za-z_][A-Za-z0-9_./@:-]*", key):
        return f"{word}: {key!r} is no key; see --help"
    if value.startswith(("[", "{")):
        return f"{word}: a bracket is not closed, or a text in it needs quotes; as one text, type {typed(key, value)}"
    if value == "~" or value.startswith("~/"):  # which the shell leaves alone behind a =
        return f"{word}: ~ is not replaced here; type {typed(key, os.path.expanduser(value))}"
    hint = f"{word}: a value with such characters needs quotes; type {typed(key, value)}"
    if "," in value:
        several = ",".join(_quoted(item) for item in value.split(","))
        hint += f" (with -m, for several: {shlex.quote(f'{key}={several}')})"
    return hint


def _split_by_the_shell(word: str) -> str:
    """What to type if `word` and those around it are the rest of a value with spaces."""
    words = sys.argv[1:]
    place = words.index(word) if word in words else 0
    start = max((i for i in range(place) if "=" in words[i]), default=None)
    if start is None:
        return ""
    end = next((i for i in range(place, len(words)) if "=" in words[i]), len(words))
    key, _, value = " ".join(words[start:end]).partition("=")
    return f", or part of a value with spaces ({typed(key, value)})"


_MANY = 20  # more are no help in a line


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """What to choose in place of a word that is none of those known."""
    by_lower_case = {name.lower(): name for name in known}
    similar = [by_lower_case[name] for name in get_close_matches(word.lower(), by_lower_case, 2)]
    if similar and len(known) > _MANY:
        return f"did you mean {' or '.join(similar)}? sasg list tells all that there are"
    choice = f"hoose one of {', '.join(known)}"
    return f"did you mean {' or '.join(similar)}? C{choice}" if similar else f"c{choice}"


def _unknown_key(key: str, known: DictConfig) -> str:
    keys = [path for path in _paths(known) if not path.startswith("hydra")]
    name = key.rpartition(".")[2]
    similar = [path for path in keys if path.rpartition(".")[2] == name] or get_close_matches(key, keys, 2)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "see --help"
    if "." in key:
        hint += f" (+{key}=... gives a part an option that its file leaves out)"
    return f"{key}: unknown key; {hint}"


def _paths(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """All keys below a node, dotted."""
    for key in node:
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_missing() or child._is_interpolation()):
            yield from _paths(child, f"{prefix}{key}.")
