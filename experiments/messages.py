"""What Hydra and OmegaConf refuse, said in one line for somebody who knows neither."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException


def one_line(error: Exception) -> str:
    """What is wrong, where, and what to do."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={name}: there is none in conf/{group}; {did_you_mean(name, error.options)}"
    if isinstance(error, OverrideParseException):
        wrong = "not of the form key=value" if "missing EQUAL" in text else f"cannot be read ({text.splitlines()[1]})"
        return f"{error.override}: {wrong}; see --help"
    if several := re.match("Ambiguous value for argument '(.*)'", text):
        return f"{several[1]}: add -m to run one after another, or give one value; a list is written key=[a,b]"
    cause = error.__cause__
    if text.startswith("Could not override") and isinstance(cause, OmegaConfBaseException) and cause.parent_node:
        return _unknown_key(str(cause.full_key), cause.parent_node._get_root())
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    return " ".join(text.split("Config search path")[0].split())


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """What to choose in place of a word that is none of those known."""
    by_lower_case = {name.lower(): name for name in known}
    similar = [by_lower_case[name] for name in get_close_matches(word.lower(), by_lower_case, 2)]
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
