"""Tabulate any runs: a row per task, method and settings, means over the seeds.

    sasg table results/runs/mnist-*              # Markdown
    sasg table results/runs --format tex         # LaTeX (booktabs); or csv
    sasg table results/runs --link wan           # and seconds of communication under a link of conf/link

Rounds and bits are those up to the first evaluation above the task's baseline accuracy. Where not every run crosses
it, there is no mean, and the cell says how many do.
In a checkout that is not installed: python -m experiments.cli table.
"""

from pathlib import Path

from sasg.command_line import Parser
from sasg.report.runs import entries_in
from sasg.report.series import in_usual_order
from sasg.report.tables import any_runs
from sasg.report.times import links


def main() -> int:
    """Print the table of what the command line names."""
    parser = Parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, a folder of runs, or a file of packed ones"
    )
    parser.add_argument("--format", choices=("md", "csv", "tex"), default="md", help="default: md")
    parser.add_argument("--link", choices=links(), help="a link model of conf/link, for seconds to the baseline")
    parser.add_argument("--columns", metavar="A,B", help="of the CSV: these alone, e.g. rounds,final_accuracy")
    options = parser.parse_args()
    table = any_runs(in_usual_order(entries_in(options.runs)), options.link, options.columns)
    texts = {"md": table.markdown, "csv": table.csv, "tex": lambda: table.tex("runs")}
    print(texts[options.format](), end="")
    return 0
