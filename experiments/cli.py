"""`sasg COMMAND`: everything that the suite does, as one command.

Only the subcommand that is asked for is imported: it may need seconds for torch.
"""

import importlib
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: experiments/MODULE.py has a `main()`, which reads sys.argv."""

    module: str
    summary: str
    needs: tuple[str, ...] = ("hydra", "torch", "pandas")


COMMANDS = {
    "train": Command("train", "one run, or with -m several: sasg train task=mnist algorithm=sasg", ("hydra", "torch")),
    "study": Command("reproduce", "the runs behind a table, then the table: sasg study demo"),
    "list": Command("listing", "methods, tasks, models, data sets, studies and more, yours too", ()),
    "show": Command("show", "what a run is, and what came out", ()),
    "compare": Command("compare", "from where on two runs differ"),
    "table": Command("table", "a table of any runs: Markdown, LaTeX or CSV"),
    "plot": Command("plot", "a figure of any runs"),
    "report": Command("report", "one HTML page of runs, curves and tables"),
    "check": Command("check", "does a method keep what the suite promises of every method?", ("hydra", "torch")),
}


def main() -> int:
    """Do what the command line asks for (exit code)."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        return _telling(lambda: print(_help()) or 0)
    name, *rest = words
    if name == "--version":
        from sasg import __version__

        print(f"sasg {__version__}")
        return 0
    if name not in _available():
        similar = get_close_matches(name, _available(), 1)
        hint = f"did you mean sasg {similar[0]}?" if similar else f"choose one of {', '.join(_available())}"
        return _fail(f"sasg {name}: no such command; {hint}")
    return _call(name, rest)


def _call(name: str, words: list[str]) -> int:
    command = COMMANDS[name]
    if lacking := [package for package in command.needs if find_spec(package) is None]:
        return _fail(f"sasg {name} needs {', '.join(lacking)}: pip install 'sasg[suite]'")
    sys.path[:0] = [os.getcwd()]  # a user's own methods beside the call
    sys.argv = [f"sasg {name}", *words]
    telling = _telling
    if "hydra" in command.needs:
        from experiments.composing import telling_errors as telling
    return telling(importlib.import_module(f"experiments.{command.module}").main)


def _telling(main: Callable[[], int]) -> int:
    from sasg.__main__ import telling_user_errors

    return telling_user_errors(main)


def _available() -> list[str]:
    return [name for name, command in COMMANDS.items() if find_spec(f"experiments.{command.module}")]


def _help() -> str:
    lines = [f"    sasg {name:<9} {COMMANDS[name].summary}" for name in _available()]
    return "\n".join(
        [
            "SASG suite: how much communication does a method of distributed learning save, at what accuracy?",
            "",
            *lines,
            "",
            "sasg COMMAND --help tells more. Runs go to results/runs beside the call. Your own methods, data sets and",
            "models are Python files beside the call, named by YAML files in conf/ there (or in the folder SASG_CONF).",
            "Exit code 0: done. 1: something failed. 2: something to mend, said in one line. 3: stopped; the same",
            "command goes on.",
        ]
    )


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
