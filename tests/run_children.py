"""Runs in processes of their own, which tests may kill."""

import os
import signal
import sys
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from sasg.config import Config
from sasg.lifetime import stop_with_parent
from sasg.training import run as training
from sasg.training import run_folder
from tests.forks import CONTEXT


def start(config: Config, dies_after: tuple[int, int] | None = None) -> BaseProcess:
    """Do a run in another process, with a checkpoint in every iteration; its exit code is the command line's.

    dies_after: it kills itself so many rows, and then lines of the code of runs and their folders, after it began.
    """
    process = CONTEXT.Process(target=_run, args=(config, dies_after))
    process.start()
    return process


def _run(config: Config, dies_after: tuple[int, int] | None) -> None:
    from sasg.__main__ import run_config, telling_user_errors

    stop_with_parent()
    training.CHECKPOINT_SECONDS = training._DECIDE_SECONDS = 0.0
    if dies_after:
        sys.settrace(_Death(*dies_after))
    raise SystemExit(telling_user_errors(lambda: run_config(config)))


class _Death:
    """A trace function (see sys.settrace): SIGKILL between two lines, wherever they are."""

    def __init__(self, num_rows: int, num_lines: int):
        self._num_rows, self._num_lines = num_rows, num_lines

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in (training.__file__, run_folder.__file__):
            return None
        if event == "call" and frame.f_code.co_name == "append_row" and frame.f_locals["name"] == "metrics.csv":
            self._num_rows -= 1
        if event == "line" and self._num_rows <= 0:
            self._num_lines -= 1
            if self._num_lines == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self
