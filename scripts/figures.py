#!/usr/bin/env python
"""Draw the repository's figures (conf/figures.yaml) from the runs that are finished, training nothing.

    scripts/figures.py                            # all of them, into results/figures, as PDF and PNG
    scripts/figures.py figure2 uploads            # these alone
    scripts/figures.py --runs-dir DIR --out DIR   # from other runs
    scripts/figures.py --wandb PROJECT            # and upload them, with the tables beside the runs, to W&B

What was not run leaves a panel that says so. The same runs give the same bytes.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), os.getcwd()]

from sasg.environment import require  # noqa: E402

require("hydra", "torch", "pandas")

from omegaconf import OmegaConf  # noqa: E402

from experiments.composing import telling_errors  # noqa: E402
from experiments.study import study_configs  # noqa: E402
from sasg.command_line import Parser  # noqa: E402
from sasg.errors import UserError  # noqa: E402
from sasg.report.runs import look_up  # noqa: E402
from sasg.report.writing import write_part  # noqa: E402
from sasg.training.tracker import publish  # noqa: E402


def main() -> int:
    """Draw what the command line names."""
    listed = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "figures.yaml"))
    figures = {figure["file"]: figure for figure in listed}
    parser = Parser(__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"one of: {', '.join(figures)}; default: all")
    parser.add_argument("--runs-dir", default=str(ROOT / "results" / "runs"), help="default: results/runs")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "figures", help="default: results/figures")
    parser.add_argument("--wandb", metavar="PROJECT", help="upload them and the tables to this W&B project")
    options = parser.parse_args()
    if unknown := [name for name in options.figures if name not in figures]:
        raise UserError(f"{', '.join(unknown)}: no such figure; choose from {', '.join(figures)}")
    found = {}
    for name in options.figures or figures:
        study = figures[name].pop("study")
        if study not in found:
            found[study] = look_up(study_configs(study, options.runs_dir))
        print(write_part(name, figures[name], found[study], options.out))
    if options.wandb:
        results = Path(options.runs_dir).parent
        drawn = [f"{name}{suffix}" for name in options.figures or figures for suffix in (".png", ".pdf")]
        tables = sorted(path for path in results.glob("*/*") if path.suffix in (".csv", ".md"))
        files = {f"figures/{file}": options.out / file for file in drawn}
        files |= {f"{path.parent.name}/{path.name}": path for path in tables}
        print(publish(files, "figures", results, options.wandb))
    return 0


if __name__ == "__main__":
    sys.exit(telling_errors(main))
