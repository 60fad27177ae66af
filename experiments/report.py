"""Write a report: one HTML file, without a network, that shows everything that was run.

    sasg report                             # the runs of ./results/runs
    sasg report --runs-dir DIR --out FILE   # others

In a checkout that is not installed: scripts/report.py.

It names what the studies of conf/study ask for and was not run. Nothing is trained.
"""

import argparse
from pathlib import Path

from experiments.commands import command
from experiments.study import CONF, study_configs
from sasg.report import html
from sasg.report.folders import entries_in
from sasg.report.runs import Entry, look_up

_FIRST = ("table2", "sparsity", "heterogeneous")


def main() -> int:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="default: results/runs")
    parser.add_argument("--out", type=Path, help="default: report.html beside the folder of runs")
    options = parser.parse_args()
    results = options.runs_dir.parent
    out = options.out or results / "report.html"
    print(html.write(_entries(options.runs_dir), out, command, results / "table3" / "table3.csv"))
    return 0


def _entries(runs_dir: Path) -> list[Entry]:
    """What the studies name, run or not, and what else is there."""
    others = sorted(path.stem for path in (CONF / "study").glob("*.yaml") if path.stem not in _FIRST)
    planned = [config for study in (*_FIRST, *others) for config in study_configs(study, str(runs_dir))]
    unique = {config.run_name(config.identity("any", "any")): config for config in planned}
    entries = look_up(list(unique.values()))
    known = {entry.run.path.name for entry in entries if entry.run}
    there = entries_in([runs_dir]) if any(runs_dir.glob("*/config.yaml")) else []
    return [*entries, *(e for e in there if e.run and e.run.path.name not in known and e.run.summary.get("totals"))]
