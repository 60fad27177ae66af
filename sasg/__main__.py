"""python -m sasg CONFIG.json: one run from a composed configuration (or from a run's config.json).

    python -m sasg config.json
    python -m sasg results/runs/NAME/config.json --into again     # a finished run once more, compared with the first
    python -m sasg results/runs/FILE.jsonl.xz/NAME --into again   # a packed one (sasg show FILE.jsonl.xz: its names)

Exit code 0: finished. 1: diverged, failed, or (--into) not the same again. 2: something to mend, said in one line. 3:
stopped by budget or signal; the same command goes on.
"""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sasg.command_line import Parser
from sasg.config import Config, load
from sasg.environment import require
from sasg.errors import ClusterError, UserError, lack_of_memory
from sasg.lifetime import end_quietly_on_interrupt, ensure_home, outlive_terminal, stop_with_parent
from sasg.origins import fault_of_user

ensure_home()  # here: before a command line imports what keeps files in it

EXIT_CODES = {"finished": 0, "diverged": 1, "stopped": 3}
"""Exit code by a run's status; 1 also where something failed, 2 for a mistake of the user's."""

_WRONG_PATH = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
TRACEBACK = "SASG_TRACEBACK"
"""The environment variable with which errors in a user's own code, and lack of memory, keep their traceback."""


def main() -> int:
    """Run the configuration that the command line names."""
    require("torch", "numpy")
    if "RANK" in os.environ:
        stop_with_parent()
        end_quietly_on_interrupt()
    outlive_terminal()
    parser = Parser(__doc__, "python -m sasg")
    parser.add_argument("config", type=Path, help="written by sasg train ... +write=CONFIG.json")
    parser.add_argument("--into", metavar="FOLDER", help="repeat a finished run in FOLDER, and compare the two")
    options = parser.parse_args()
    if options.into is None:
        return run_config(load(options.config))
    return _repeat(options.config, options.into)


def run_config(config: Config) -> int:
    """Do the run, print its folder, return its exit code."""
    from sasg.training.run import run  # torch takes seconds to import: after the configuration's checks

    summary = run(config)
    if "RANK" in os.environ:  # one process of several: the launcher, or torchrun, tells how the run ended
        return _as_rank(summary)
    if config.link is not None and summary["totals"]:
        from sasg.training.link_time import link_time

        print(link_time(Path(summary["folder"]), config), file=sys.stderr)
    print(summary["folder"])
    return EXIT_CODES[summary["status"]]


def _repeat(path: Path, into: str) -> int:
    """Repeat the finished run that a config.json is of, and say where the two differ first."""
    if "RANK" in os.environ:
        raise UserError("--into: is given without torchrun; the processes that the run had are started")
    try:
        from sasg.report.repetition import beside, beside_packed
    except ImportError as error:
        raise UserError(f"--into: the comparison needs {error.name}: pip install {error.name}") from None
    from sasg.report.packed import SUFFIX, packed_run
    from sasg.training.repeat import Repetition

    if path.parent.name.endswith(SUFFIX):
        identity, summary, *_ = packed_run(path.parent, path.name)
        repetition = Repetition(identity, summary, into)
    else:
        summary, repetition = None, Repetition.of_folder(path, into)
    code = run_config(repetition.config)
    if code == EXIT_CODES["stopped"]:
        return code
    if summary is None:
        equal, words = beside(path.parent, repetition.folder)
    else:
        equal, words = beside_packed(summary, repetition.folder)
    print("\n".join(words))
    return 0 if equal else 1


def _as_rank(summary: dict[str, Any]) -> int:
    from sasg.cluster.launch import report_summary

    if "status" in summary and not report_summary(summary):  # the server, started by hand
        print(summary["folder"])
    return 0


def telling_user_errors(main: Callable[[], int]) -> int:
    """The exit code of `main`; mistakes, failing files and errors in a user's own code become one line on stderr."""
    try:
        return main()
    except UserError as error:
        return _fail(2, str(error))
    except ClusterError as error:
        return _fail(1, f"{error}; the same command goes on from the last checkpoint")
    except KeyboardInterrupt:
        return _fail(EXIT_CODES["stopped"], "interrupted; the same command begins again, or goes on from a checkpoint")
    except BrokenPipeError:  # whoever read what is printed, as in `... | head`, has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- for the rest of the process
        return 1
    except OSError as error:
        where = f"{str(error.filename).removesuffix('.part')}: " if error.filename else ""
        return _fail(*_of_file(error.errno, f"{where}{error.strerror or error}"))
    except Exception as error:
        told = lack_of_memory(error)
        if told is None and (told := fault_of_user(error)):
            rank = f" (in rank {os.environ['RANK']})" if "RANK" in os.environ else ""
            told += f"{rank}; {TRACEBACK}=1 shows the whole traceback"
        if told is None or os.environ.get(TRACEBACK):
            raise
        return _fail(2, told)


def _of_file(number: int | None, told: str) -> tuple[int, str]:
    """Exit code and words: a path that cannot be used is the user's, a disk that is full or fails is not."""
    if number in _WRONG_PATH:
        return 2, f"{told}; give another path, or mend this one"
    return 1, f"{told}; once that is mended, the same command goes on"


def _fail(code: int, message: str) -> int:
    if "RANK" not in os.environ:
        print(f"error: {message}", file=sys.stderr)
        return code
    from sasg.cluster.launch import report_failure

    if not report_failure(code, message):
        print(f"rank {os.environ['RANK']}: error: {message}", file=sys.stderr, flush=True)
    os._exit(code)  # at once: leaving a process group in order waits for ranks that may be gone


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
