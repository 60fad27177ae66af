"""Live progress: one line that rewrites itself in a terminal, one line per epoch in a log file."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sasg.lifetime import LastingStream


class Progress:
    """Tells how a run goes. Everything but the rewritten line also goes to `log` (console.log).

    Without a log it is silent: only the server tells. A terminal that goes away ends nothing.
    """

    def __init__(self, name: str, num_iterations: int, log: Path | None):
        self.name, self.num_iterations = name, num_iterations
        self._log = log
        self._terminal = LastingStream(sys.stderr)
        self._live = log is not None and self._terminal.isatty()
        self._started: tuple[float, int] | None = None
        self._last = 0.0
        self._epoch = -1
        self._row: dict[str, Any] = {}
        self._skipped = 0.0

    def say(self, text: str) -> None:
        """A line for the reader, in the terminal and in the log."""
        if self._log is None:
            return
        print(f"{chr(13) + chr(27) + '[K' if self._live else ''}{self.name}: {text}", file=self._terminal, flush=True)
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")

    def tick(self, iteration: int) -> None:
        """After each iteration: refresh the live line at most twice a second."""
        now = time.monotonic()
        if self._started is None:
            self._started = (now, iteration)
        if self._live and now - self._last > 0.5:
            self._last = now
            print(f"\r\x1b[K{self.name}: {self._line(iteration, now)}", end="", file=self._terminal, flush=True)

    def evaluated(self, row: dict[str, Any], skipped: float, epoch_ended: bool) -> None:
        """After each evaluation, with its row of metrics and the share of uploads that were skipped."""
        self._row, self._skipped = row, skipped
        if epoch_ended:
            self.say(self._line(row["iteration"], time.monotonic()))

    def _line(self, iteration: int, now: float) -> str:
        row = self._row
        text = f"iteration {iteration}/{self.num_iterations}"
        if row:
            text = (
                f"epoch {row['epoch']:.1f}  {text}  loss {row['training_loss']:.4f}  {metric_text(row)}  "
                f"rounds {row['rounds']}  skipped {self._skipped:.1%}"
            )
        if self._started and iteration > self._started[1]:
            rate = (iteration - self._started[1]) / (now - self._started[0])
            left = int((self.num_iterations - iteration) / rate)
            text += f"  {rate:.1f} it/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        return text


def counted(number: int, what: str) -> str:
    """The number of some things: "1 run", "20 runs"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def metric_text(row: Mapping[str, Any]) -> str:
    """How far a run has come, from a row of metrics: its loss, accuracy, or its objective's error or gradient."""
    if "loss" in row:
        return f"validation loss {float(row['loss']):.4f}"
    if "top1" in row:
        return f"top-1 {float(row['top1']):.2%}"
    name = "objective_error" if "objective_error" in row else "gradient_norm"
    return f"{name.replace('_', ' ')} {float(row[name]):.2e}"
