#!/usr/bin/env python
"""Tabulate any runs: a row per task, method and settings, means over the seeds.

    scripts/table.py results/runs/mnist-*              # Markdown
    scripts/table.py results/runs --format tex         # LaTeX (booktabs); or csv
    scripts/table.py results/runs --link wan           # and seconds of communication under a link of conf/link

Rounds and bits are those up to the first evaluation above the task's baseline accuracy. Where not every run crosses
it, there is no mean, and the cell says how many do.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sasg.environment import require

require("torch", "pandas")

from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.report.runs import entries_in  # noqa: E402
from sasg.report.series import in_usual_order  # noqa: E402
from sasg.report.tables import any_runs  # noqa: E402
from sasg.report.times import links  # noqa: E402


def main() -> int:
    """Print the table of what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("--format", choices=("md", "csv", "tex"), default="md", help="default: md")
    parser.add_argument("--link", choices=links(), help="a link model of conf/link, for seconds to the baseline")
    parser.add_argument("--columns", metavar="A,B", help="of the CSV: these alone, e.g. rounds,final_accuracy")
    options = parser.parse_args()
    table = any_runs(in_usual_order(entries_in(options.runs)), options.link, options.columns)
    texts = {"md": table.markdown, "csv": table.csv, "tex": lambda: table.tex("runs")}
    print(texts[options.format](), end="")
    return 0


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
