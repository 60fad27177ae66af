"""Runs as child processes, several at a time; none outlives the study, and each can be taken up again."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from sasg.__main__ import EXIT_CODES
from sasg.config import Config
from sasg.errors import UserError
from sasg.lifetime import stop_with_parent
from sasg.training.estimate import Estimate
from sasg.training.run_folder import BUSY, RunFolder

_ROOT = Path(__file__).resolve().parent.parent
_POLL_SECONDS = 0.5
_START_SECONDS = 5.0  # of a process: until it trains


class Job:
    """A run that a study still needs.

    state: waiting, running, elsewhere (another process is at work on it), finished, diverged, stopped, or failed
    with a `reason`. row: the newest complete row of its metrics.csv ({} before the first), and `iteration` there.
    """

    def __init__(self, config: Config, folder: RunFolder, estimate: Estimate):
        self.config, self.folder, self.estimate = config, folder, estimate
        self.state = "waiting"
        self.reason = ""
        self.gpu: str | None = None  # the one that it was started on, where runs are spread over several
        self._seen: list[tuple[float, int]] = []  # when a new iteration was read, since the run was started
        self._process: subprocess.Popen | None = None
        self._output: Path | None = None
        self.read_progress()

    @property
    def name(self) -> str:
        return self.folder.path.name

    def read_progress(self) -> None:
        """Read how far the run has come."""
        try:
            text = (self.folder.path / "metrics.csv").read_text()
        except (OSError, ValueError):
            text = ""
        header, *rows = text[: text.rfind("\n") + 1].splitlines() or [""]
        self.row: dict[str, str] = next(csv.DictReader([header, *rows[-1:]]), {})
        self.iteration = int(self.row.get("iteration") or 0)
        if not self._seen or self._seen[-1][1] != self.iteration:
            self._seen.append((time.monotonic(), self.iteration))

    @property
    def seconds_left(self) -> float:
        """From this study's own pace where there is one, else from the estimate."""
        if self.state not in ("waiting", "running", "elsewhere"):
            return 0.0
        pace = self.estimate.seconds_per_iteration
        if len(self._seen) > 2:  # the first time includes the start
            (began, first), (read, last) = self._seen[1], self._seen[-1]
            pace = (read - began) / (last - first) if last > first else pace
        start = 0.0 if self.state == "running" else _START_SECONDS
        return start + pace * max(0, self.estimate.num_iterations - self.iteration)

    def start(self, scratch: Path, gpu: str | None = None) -> None:
        """Start the run: python -m sasg CONFIG.json, its words kept in `scratch`; on one GPU alone, if named."""
        config = scratch / f"{self.name}.json"
        config.write_text(json.dumps(self.config.as_dict()))
        self._output = scratch / f"{self.name}.txt"
        paths = [str(_ROOT), os.getcwd(), os.environ.get("PYTHONPATH", "")]
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(self.config.threads)}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sasg", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C is for the study alone, which then stops its runs
                preexec_fn=stop_with_parent,
            )
        self.state, self.gpu = "running", gpu
        self._seen = []

    def look(self) -> None:
        """Take note of how far the run has come, and whether it has ended."""
        self.read_progress()
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._process = None
        try:
            self.state, self.reason = self._outcome(code)
        except UserError as error:  # its files cannot be read now
            self.state, self.reason = "failed", str(error)

    def stop(self, by: signal.Signals) -> None:
        """Ask the run to stop (SIGTERM: it saves a checkpoint first)."""
        if self._process is not None and self._process.poll() is None:
            if by == signal.SIGKILL:
                os.killpg(self._process.pid, by)
            else:
                self._process.send_signal(by)

    def _outcome(self, code: int) -> tuple[str, str]:
        summary = self.folder.summary()
        if summary is not None:
            return summary["status"], "its loss is not finite" if summary["status"] == "diverged" else ""
        words = self._output.read_text(errors="replace").strip().splitlines() if self._output else []
        last = words[-1].removeprefix("error: ") if words else "it said nothing"
        if BUSY in last:
            return "elsewhere", ""
        if code in (EXIT_CODES["stopped"], -signal.SIGTERM):
            return "stopped", ""
        if code < 0:
            last = f"ended by {signal.Signals(-code).name}; the same command goes on from its last checkpoint"
        if code != 2:  # a mistake of the user's: nothing has begun
            self._record_failure(last)
        return "failed", last

    def _record_failure(self, reason: str) -> None:
        """In its folder, also for a run that was killed."""
        with contextlib.suppress(UserError, OSError), self.folder.held():
            self.folder.record_failure(reason)


class Pool:
    """Does jobs, `slots` at a time, until they are done, a deadline (time.monotonic) has passed, or a signal comes.

    gpus: to spread them over, each job on the one with the fewest.
    """

    def __init__(self, jobs: list[Job], slots: int, deadline: float, gpus: Sequence[str] = ()):
        self.jobs, self.slots, self.deadline, self.gpus = jobs, slots, deadline, gpus
        self._num_signals = 0
        self._asked = 0

    def work(self, show: Callable[[], None]) -> None:
        """Returns when nothing runs any more. `show` is called a few times a second."""
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            with tempfile.TemporaryDirectory(prefix="sasg-study-") as scratch:
                while self._go_on(Path(scratch)):
                    show()
                    time.sleep(_POLL_SECONDS)
        finally:
            for job in self._in_state("running"):
                job.stop(signal.SIGTERM)
            for number, handler in previous.items():
                signal.signal(number, handler)
        show()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._num_signals += 1

    def _in_state(self, *states: str) -> list[Job]:
        return [job for job in self.jobs if job.state in states]

    def _go_on(self, scratch: Path) -> bool:
        for job in self._in_state("running"):
            job.look()
        if self._is_stopping():
            return bool(self._in_state("running"))
        for job in self._in_state("elsewhere"):
            job.read_progress()
            if not job.folder.is_held():
                summary = job.folder.summary()
                job.state = summary["status"] if summary else "waiting"
        for job in self._in_state("waiting")[: self.slots - len(self._in_state("running"))]:
            if job.folder.is_held():
                job.state = "elsewhere"
            else:
                job.start(scratch, self._emptiest_gpu())
        return bool(self._in_state("running", "waiting", "elsewhere"))

    def _emptiest_gpu(self) -> str | None:
        busy = [job.gpu for job in self._in_state("running")]
        return min(self.gpus, key=busy.count, default=None)

    def _is_stopping(self) -> bool:
        """Whether to end; passes each wish to stop on to the runs once, a second one as SIGKILL."""
        wishes = self._num_signals + (time.monotonic() > self.deadline)
        if wishes > self._asked:
            for job in self._in_state("running"):
                job.stop(signal.SIGKILL if self._num_signals > 1 else signal.SIGTERM)
            self._asked = wishes
        return wishes > 0


def total_seconds(jobs: Sequence[Job], slots: int) -> float:
    """How long these jobs still take, `slots` at a time, if they keep their pace."""
    left = [job.seconds_left for job in jobs]
    return max(sum(left) / slots, max(left, default=0.0))
