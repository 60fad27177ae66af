"""Draw any runs together: a panel per task, a line per method and settings, a band over the seeds.

    sasg plot results/runs/mnist-*                              # accuracy against rounds: plot.pdf and plot.png
    sasg plot results/runs --x real_bits                        # all runs, against uplink and downlink bits
    sasg plot A B --x iteration --y training_loss --out figures/loss
    sasg plot A B --link wan                                    # against seconds under a link of conf/link

x and y are columns of metrics.csv, or what follows from them: uplink_bits (values, indices of ceil(log2 n) bits and
flags), real_bits (with the download of every worker), accuracy (the one that the task is judged by), and with a link
seconds (modelled: upload, flags and download, no computation).
Where runs of a method differ in more than their seed, they are lines of their own, which tell in what.
In a checkout that is not installed: python -m experiments.cli plot.
"""

from pathlib import Path

from sasg.command_line import Parser
from sasg.report.figures import lines
from sasg.report.runs import entries_in
from sasg.report.series import in_usual_order
from sasg.report.style import save
from sasg.report.times import links


def main() -> int:
    """Draw what the command line names."""
    parser = Parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, a folder of runs, or a file of packed ones"
    )
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
