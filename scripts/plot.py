#!/usr/bin/env python
"""Draw any runs together: a panel per task, a line per method and settings, a band over the seeds.

    scripts/plot.py results/runs/mnist-*                              # accuracy against rounds: plot.pdf and plot.png
    scripts/plot.py results/runs --x real_bits                        # all runs, against uplink and downlink bits
    scripts/plot.py A B --x iteration --y training_loss --out figures/loss
    scripts/plot.py A B --link wan                                    # against seconds under a link of conf/link

x and y are columns of metrics.csv, or what follows from them: uplink_bits (values, indices of ceil(log2 n) bits and
flags), real_bits (with the download of every worker), accuracy (the one that the task is judged by), and with a link
seconds (modelled: upload, flags and download, no computation).
Where runs of a method differ in more than their seed, they are lines of their own, which tell in what.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sasg.environment import require

require("torch", "pandas")

from sasg.__main__ import telling_user_errors  # noqa: E402
from sasg.report.figures import lines  # noqa: E402
from sasg.report.runs import entries_in  # noqa: E402
from sasg.report.series import in_usual_order  # noqa: E402
from sasg.report.style import save  # noqa: E402
from sasg.report.times import links  # noqa: E402


def main() -> int:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("--x", help="default: rounds; with --link, seconds")
    parser.add_argument("--y", default="accuracy", help="default: accuracy")
    parser.add_argument("--out", type=Path, default=Path("plot"), help="path without suffix (default: plot)")
    parser.add_argument("--link", choices=links(), help="a link model of conf/link")
    options = parser.parse_args()
    out = options.out.with_suffix("") if options.out.suffix in (".png", ".pdf") else options.out
    x = options.x or ("seconds" if options.link else "rounds")
    figure = lines(in_usual_order(entries_in(options.runs)), x, options.y, options.link)
    print(save(figure, out.parent, out.name))
    return 0


if __name__ == "__main__":
    sys.exit(telling_user_errors(main))
