"""How processes end, and what a run outlives: its parent, its terminal, a machine without a home for its user."""

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_parent() -> None:
    """In a child: be sent SIGTERM when the parent dies, in whatever way (on Linux; elsewhere it goes on)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_quietly_on_interrupt() -> None:
    """Until the run listens to signals, Ctrl-C ends this process at once, as SIGTERM does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def outlive_terminal() -> None:
    """From now on nothing ends with the terminal: neither by SIGHUP nor because nobody reads what is printed.

    The processes of a distributed run leave SIGHUP as it is: their launcher decides.
    """
    for number in range(3):  # a closed one would be the number of the next file, which then gets what is printed
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = LastingStream(sys.stdout), LastingStream(sys.stderr)
    if "RANK" not in os.environ:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


class LastingStream:
    """A stream of text whose reader may go away: what cannot be written any more is dropped."""

    def __init__(self, stream: TextIO | None):
        """stream: None where there is none, as Python has it for one that was closed."""
        if isinstance(stream, LastingStream):
            stream = stream._stream
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115 -- as long as the process

    def write(self, text: str) -> int:
        try:
            self._unless_gone(self._stream.write, text)
        except UnicodeEncodeError:  # a terminal without these letters
            encoding = self._stream.encoding
            self._unless_gone(self._stream.write, text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        self._unless_gone(self._stream.flush)

    def _unless_gone(self, action: Callable[..., object], *arguments: Any) -> None:
        try:
            action(*arguments)
        except UnicodeEncodeError:
            raise
        except (OSError, ValueError):  # ValueError: it was closed in this process
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # else what is left in its buffer fails at the end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def ensure_home() -> None:
    """Where this user has no home folder that can be written to, libraries keep their caches in a temporary one.

    Without it numba, W&B and Triton end with a traceback, or make a folder called "~".
    """
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in passwd
        os.environ["HOME"] = str(_temporary_home())
        return
    if not os.access(home, os.W_OK | os.X_OK):
        substitute = _temporary_home()
        for variable, name in {"XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "TRITON_HOME": ""}.items():
            os.environ.setdefault(variable, str(substitute / name))


def _temporary_home() -> Path:
    """A folder for this user alone, the same each time; another one where that is somebody else's."""
    path = Path(tempfile.gettempdir()) / f"sasg-home-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if found.st_uid == os.getuid() and found.st_mode & 0o170077 == 0o040000:  # a folder, closed to all others
        return path
    return Path(tempfile.mkdtemp(prefix="sasg-home-"))
