#!/usr/bin/env python
"""Write results/report.html: one file, without a network, that shows everything that was run.

    scripts/report.py                             # the runs of results/runs
    scripts/report.py --runs-dir DIR --out FILE   # others

It names what the studies of conf/study ask for and was not run. Nothing is trained.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), os.getcwd()]

from sasg.environment import require  # noqa: E402

require("hydra", "torch", "pandas")

from experiments.composing import telling_errors  # noqa: E402
from experiments.study import CONF, study_configs  # noqa: E402
from sasg.report import html  # noqa: E402
from sasg.report.folders import entries_in  # noqa: E402
from sasg.report.runs import Entry, look_up  # noqa: E402

_FIRST = ("table2", "sparsity", "heterogeneous")


def main() -> int:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "results" / "runs", help="default: results/runs")
    out = ROOT / "results" / "report.html"
    parser.add_argument("--out", type=Path, default=out, help="default: results/report.html")
    options = parser.parse_args()
    print(html.write(_entries(options.runs_dir), options.out, ROOT / "results" / "table3" / "table3.csv"))
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


if __name__ == "__main__":
    sys.exit(telling_errors(main))
