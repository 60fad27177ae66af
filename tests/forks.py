"""Processes of the tests: forked from a server that has imported and compiled once what they need."""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from sasg.lifetime import stop_with_parent

CONTEXT = multiprocessing.get_context("forkserver")  # a fork of this process would have its threads' locks, too
CONTEXT.set_forkserver_preload(["tests.warm"])


class ForkedCommand:
    """In the place of subprocess.Popen: `python -m sasg CONFIG.json` without a fresh interpreter."""

    def __init__(self, words: Sequence[str], stderr: IO[str], env: Mapping[str, str], **options: Any):
        assert list(words[1:3]) == ["-m", "sasg"] and options["start_new_session"]
        self._process = CONTEXT.Process(target=_command, args=(words[3], stderr.name, dict(env)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def _command(config: str, stderr: str, environment: dict[str, str]) -> None:
    os.setsid()
    stop_with_parent()
    os.environ.clear()
    os.environ.update(environment)
    with open(stderr, "w") as output, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv[1:] = [config]
    from sasg.__main__ import main, telling_user_errors

    sys.exit(telling_user_errors(main))
