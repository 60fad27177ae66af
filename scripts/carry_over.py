#!/usr/bin/env python
"""Give run folders of before their new names, and show that nothing but names changes in them.

    scripts/carry_over.py                                                  # results/runs
    scripts/carry_over.py --runs-dir DIR results docs README.md            # and the old names in these texts

Before, a folder's `config.yaml` had options as they were spelled, parts by the place of their file, and the switches of
a preset and the constants of a task beside the parts that took them; its name was a hash of that. Now `config.json` has
each option once, resolved, and parts by lasting names. Metrics, uploads, times and summaries stay as they are, byte for
byte. DIR/renamed.csv keeps what was called how, so that texts that come later can be carried over too: call it again.

Exit code 0: done. 2: a folder was left as it was, for the reason that is told.
"""

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sasg.environment import require

require("torch", "numpy")

from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.builtin import BUILT_IN  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.config import from_dict, hashed  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.training.run_folder import CHECKPOINT, write_text  # noqa: E402

OLD, NEW, RENAMED = "config.yaml", "config.json", "renamed.csv"
_NAME = r"[\w.]+-[\w.]+-s\d+-[0-9a-f]{8}"
_CONSTANTS = ("max_delay", "alpha", "xi")  # of a task; parts have what they took from them
_BY_CALLABLE = {path.rpartition(".")[2]: name for name, path in BUILT_IN.items() if "report" not in path}
_DEFAULTS = {
    **{"objective": None, "seed": 1, "draws": "counter", "precision": "tf32", "max_iterations": None},
    **{"evaluate_every": 100, "evaluate_epochs": True, "weight_decay": 0.0, "index_codes": None},
    "task": {"decay_factor": 0.1, "warmup_epochs": 0, "warmup_factor": 1.0, "baseline": None, "max_delay": 10}
    | {"xi": None},
    "cluster": {"workers": 10},
}
"""What an old hash left out."""


def main() -> int:
    """Carry over what the command line names."""
    parser = Parser(__doc__)
    parser.add_argument("texts", nargs="*", type=Path, help="files and folders in which old names are replaced")
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="default: results/runs")
    options = parser.parse_args()
    for path in (options.runs_dir, *options.texts):
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
    refused = carry_over_all(options.runs_dir)
    names = dict(_renamed(options.runs_dir))
    for path in _files(options.texts, options.runs_dir):
        if number := replace_names(path, names):
            print(f"{path}: {number} names")
    print("\n".join(refused), file=sys.stderr, end="\n" * bool(refused))
    return 2 if refused else 0


def carry_over_all(runs_dir: Path) -> list[str]:
    """Carry over the folders of `runs_dir`; returns why others were left as they were, a line for each."""
    refused, number = [], 0
    for folder in sorted(file.parent for file in runs_dir.glob(f"*/{OLD}")):
        try:
            name = carry_over(folder)
        except UserError as error:
            refused.append(f"{folder}: left as it was: {error}")
            continue
        _remember(runs_dir, folder.name, name)
        print(f"{folder.name} -> {name}")
        number += 1
    print(f"{number} run folders carried over; in each, every file but {NEW} is as it was, byte for byte")
    return refused


def carry_over(folder: Path) -> str:
    """Give one run's folder its new configuration and name, which is returned. UserError: it cannot be."""
    try:
        old = json.loads((folder / OLD).read_text())
        expected = f"{old['task']['name']}-{old['algorithm']['name']}-s{old['seed']}-{old_digest(old)[:8]}"
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{OLD} is damaged") from None
    if folder.name != expected:
        raise UserError(f"its name does not fit its {OLD}, by which it is {expected}")
    if (folder / CHECKPOINT).exists():
        raise UserError("it is not finished; the version that began it finishes it, or delete it to begin anew")
    identity, name = translated(old)
    target = folder.with_name(name)
    if target.exists():
        raise UserError(f"{name} is there already")
    before = _content(folder)
    write_text(folder / NEW, json.dumps(identity, indent=2) + "\n")
    (folder / OLD).unlink()
    os.rename(folder, target)
    if _content(target) != before:
        raise AssertionError(f"{target}: a file other than {NEW} changed")
    return name


def old_digest(old: Mapping[str, Any]) -> str:
    """The hash by which a folder was named."""
    kept = _without(old, _DEFAULTS)
    if baseline := kept["task"].get("baseline"):
        kept["task"]["baseline"] = {key: value for key, value in baseline.items() if value is not None}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _without(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            kept[key] = _without(value, defaults[key])
        elif key not in defaults or value != defaults[key]:
            kept[key] = value
    return kept


def translated(old: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The new configuration of an old one, and its run's name. UserError: a part or an option is unknown.

    AssertionError: the new one says something else than the old one.
    """
    spelled = {key: _with_names(value) for key, value in old.items()}
    spelled["algorithm"] = _plain_sgd(spelled["algorithm"])
    spelled["preset"], spelled["batchnorm"] = old["preset"]["name"], old["preset"]["batchnorm"]
    spelled["task"] = {key: value for key, value in old["task"].items() if key not in _CONSTANTS}
    config = from_dict(spelled)
    identity = config.identity(old["data_sha256"], old["device"])
    if not _says(identity, spelled) or hashed(identity) != hashed(spelled):
        raise AssertionError("the new configuration is not the old one with its defaults filled in")
    return identity, config.run_name(identity)


def _with_names(value: Any) -> Any:
    """Parts of the suite by their names, at any depth."""
    if isinstance(value, list):
        return [_with_names(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    named = {key: _with_names(item) for key, item in value.items()}
    kind = str(named.get("kind"))
    return {**named, "kind": _BY_CALLABLE.get(kind.rpartition(".")[2], kind)} if kind.startswith("sasg.") else named


def _plain_sgd(algorithm: Mapping[str, Any]) -> Mapping[str, Any]:
    """Distributed SGD as the method of its own that it is now, if it is what was composed."""
    plain = {"trigger": "always", "compressor": "identity", "feedback": "no_feedback", "aggregation": "sum_of_uploads"}
    if any(algorithm.get(part) != {"kind": kind} for part, kind in plain.items()):
        return algorithm
    return {key: value for key, value in algorithm.items() if key not in plain} | {"kind": "sgd"}


def _says(whole: Any, part: Any) -> bool:
    """Whether `whole` has all that `part` has, with the same values."""
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(key in whole and _says(whole[key], part[key]) for key in part)
    if isinstance(part, list):
        return isinstance(whole, list) and len(whole) == len(part) and all(map(_says, whole, part))
    return whole == part


def _content(folder: Path) -> dict[str, str]:
    """SHA-256 of a run's files by name, but for its configuration."""
    files = (path for path in folder.iterdir() if path.name not in (OLD, NEW))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _renamed(runs_dir: Path) -> list[tuple[str, str]]:
    """(old, new) names of all folders that were ever carried over here."""
    path = runs_dir / RENAMED
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [(row["old"], row["new"]) for row in csv.DictReader(file)]


def _remember(runs_dir: Path, old: str, new: str) -> None:
    rows = sorted({*_renamed(runs_dir), (old, new)})
    write_text(runs_dir / RENAMED, "".join(f"{a},{b}\n" for a, b in [("old", "new"), *rows]))


def _files(texts: Iterable[Path], runs_dir: Path) -> list[Path]:
    """Files, and those in folders, but for the runs themselves."""
    found = [file for path in texts for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [file for file in found if file.is_file() and runs_dir.resolve() not in file.resolve().parents]


def replace_names(path: Path, names: Mapping[str, str]) -> int:
    """Replace old names of runs in a text, if it is one; returns how many."""
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return 0
    found = [name for name in re.findall(_NAME, text) if name in names]
    if found:
        write_text(path, re.sub(_NAME, lambda match: names.get(match[0], match[0]), text))
    return len(found)


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
