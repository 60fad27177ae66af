"""Tabulate any runs: a row per task, method and settings, means over the seeds.

    sasg table results/runs/mnist-*              # Markdown
    sasg table results/runs --format tex         # LaTeX (booktabs); or csv
    sasg table results/runs --link wan           # and seconds of communication under a link of conf/link

Rounds and bits are those up to the first evaluation above the task's baseline accuracy. Where not every run crosses
it, there is no mean, and the cell says how many do. In a checkout that is not installed: scripts/table.py.
"""

import argparse
from pathlib import Path

from sasg.report.folders import entries_in
from sasg.report.runs_table import header, rows
from sasg.report.tables import as_csv, as_markdown, as_tex
from sasg.report.times import links


def main() -> int:
    """Print the table of what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("--format", choices=("md", "csv", "tex"), default="md", help="default: md")
    parser.add_argument("--link", choices=links(), help="a link model of conf/link, for seconds to the baseline")
    options = parser.parse_args()
    names, table = header(options.link), rows(entries_in(options.runs), options.link)
    match options.format:
        case "md":
            print(as_markdown(names, table), end="")
        case "csv":
            print(as_csv([dict(zip(names, row, strict=True)) for row in table]), end="")
        case "tex":
            print(as_tex(names, table, "runs", "Means over seeds"), end="")
    return 0
