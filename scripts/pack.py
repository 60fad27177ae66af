#!/usr/bin/env python
"""Pack the runs of a study that have ended into one compressed file beside the run folders.

    scripts/pack.py sensitivity                   # into results/runs/sensitivity.jsonl.xz
    scripts/pack.py sensitivity --from DIR/runs   # from run folders elsewhere; runs that are there already stay

Tables and figures of studies find packed runs like folders; `sasg study NAME jobs=0` writes them anew, the same bytes.
What is packed is configuration, summary and metrics: what triggers compared, decisions and times are in folders alone.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), os.getcwd()]

from sasg.environment import require  # noqa: E402

require("hydra", "torch", "pandas")

from experiments.composing import telling_errors  # noqa: E402
from experiments.study import load_study, study_configs, study_name  # noqa: E402
from experiments.tuning import with_tuning  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.report.packed import SUFFIX, pack  # noqa: E402
from sasg.report.runs import look_up  # noqa: E402
from sasg.training.progress import counted  # noqa: E402


def main() -> int:
    """Pack what the command line names."""
    parser = Parser(__doc__)
    parser.add_argument("study", help="of conf/study, or a YAML file")
    parser.add_argument("--from", dest="source", default=str(ROOT / "results" / "runs"), metavar="RUNS_DIR")
    parser.add_argument("--into", type=Path, default=ROOT / "results" / "runs", metavar="RUNS_DIR")
    options = parser.parse_args()
    configs = with_tuning(load_study(options.study), study_configs(options.study, options.source))
    runs = [entry.run for entry in look_up(configs) if entry.run]
    if not runs:
        raise UserError(f"{options.study}: none of its runs has ended in {options.source}")
    options.into.mkdir(parents=True, exist_ok=True)
    path = options.into / f"{study_name(options.study)}{SUFFIX}"
    number = pack(path, [run.content for run in runs])
    print(f"{path}: {counted(number, 'run')}, {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(telling_errors(main))
