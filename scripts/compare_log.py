#!/usr/bin/env python
"""Runs with draws=published beside the log of the published notebook, epoch by epoch.

    scripts/compare_log.py LOG results/runs             # or some runs' folders

LOG: the notebook's printed output. Of the folders, runs with draws=published are compared with the log's runs of the
same method and seed. Differences are run minus log; the last table has the largest ones of each run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sasg.environment import require

require("torch", "pandas")

from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.report.epochs import Epoch, LogRun, epochs_of, largest, read_log  # noqa: E402
from sasg.report.names import method_name  # noqa: E402
from sasg.report.runs import Entry, entries_in  # noqa: E402
from sasg.report.writing import as_markdown  # noqa: E402

HEADER = ["Run", "Epoch", "Skipped, log", "run", "difference", "Loss, log", "run", "difference"]
HEADER += ["Test accuracy %, log", "run", "difference"]
SUMMARY = ["Method", "Seed", "Epochs", "Skipped differs by", "Loss differs by", "Test accuracy differs by"]


def main() -> int:
    """Print the tables of what the command line names."""
    parser = Parser(__doc__)
    parser.add_argument("log", type=Path, metavar="LOG", help="a published log")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a folder of runs")
    options = parser.parse_args()
    pairs = _pairs(read_log(options.log), entries_in(options.runs))
    rows, summary = [], []
    for logged, entry in pairs:
        epochs = list(zip(logged.epochs, epochs_of(entry.run)))
        if not epochs:
            continue
        rows += [[entry.run.path.name, str(number), *_cells(*both)] for number, both in enumerate(epochs, 1)]
        apart = largest([run.minus(log) for log, run in epochs])
        cells = f"{apart.num_skipped:,}", f"{apart.training_loss:.4f}", f"{100 * apart.top1:.2f} points"
        summary.append([method_name(logged.method), str(logged.seed), str(len(epochs)), *cells])
    print(as_markdown(HEADER, rows))
    print(as_markdown(SUMMARY, summary), end="")
    return 0


def _pairs(log: list[LogRun], entries: list[Entry]) -> list[tuple[LogRun, Entry]]:
    """Each run of the log with those of its method and seed. UserError: there is none."""
    replays = [entry for entry in entries if entry.run and entry.config.draws == "published"]
    found = [(one, e) for one in log for e in replays if (one.method, one.seed) == (e.method, e.config.seed)]
    if not found:
        names = ", ".join(f"{one.method} seed {one.seed}" for one in log)
        raise UserError(f"none of these runs has draws=published and a method and seed of the log's: {names}")
    return found


def _cells(log: Epoch, run: Epoch) -> list[str]:
    cells = []
    for name, scale, text in (("num_skipped", 1, ",.0f"), ("training_loss", 1, ".4f"), ("top1", 100, ".2f")):
        a, b = scale * getattr(log, name), scale * getattr(run, name)
        cells += [f"{a:{text}}", f"{b:{text}}", f"{b - a:+{text}}"]
    return cells


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
