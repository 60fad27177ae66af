"""Command lines with options: what is wrong with one is told in one line, as all other mistakes are."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from sasg.errors import UserError


class _Once(argparse.Action):
    """Keeps an argument's value; an option that is given again would silently replace the first one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        given = vars(parser).setdefault("given", set())
        if option is not None and self.dest in given:
            parser.error(f"{option} is given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """argparse's, with a text as it is written; mistakes are a `UserError`, and no option is given twice."""

    def __init__(self, description: str | None, prog: str | None = None):
        super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        for name in (None, "store"):
            self.register("action", name, _Once)

    def error(self, message: str) -> NoReturn:
        """UserError: the message, what may have been meant, and where to read more."""
        alike = _alike(message, list(self._option_string_actions))
        hint = f"did you mean {' or '.join(alike)}? " if alike else ""
        raise UserError(f"{message}; {hint}{self.prog} --help tells what there is")


def _alike(message: str, known: Sequence[str]) -> list[str]:
    """Options that are like those that are not known."""
    words = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
    return [name for word in words for name in get_close_matches(word, known, 1)]
