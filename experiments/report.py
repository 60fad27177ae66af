"""Write a report: one HTML file, without a network, that shows runs, their curves and their tables.

    sasg report                             # the runs of ./results/runs, into ./results/report.html
    sasg report --runs-dir DIR              # those of DIR, into report.html beside DIR
    sasg report --runs-dir DIR --study mine # the tables of a study, from the runs in DIR, run or not
    sasg report --runs-dir DIR --out FILE

In the suite's own folder it shows all studies of conf/study, what of them was not run, and what else is there.
Elsewhere it shows the runs and studies that it is given, and nothing else. Nothing is trained.
In a checkout that is not installed: python -m experiments.cli report.
"""

import html as text
import typing
from collections.abc import Sequence
from pathlib import Path

from experiments.study import CONF, load_study, study_configs
from experiments.tuning import with_tuning
from sasg.command_line import Parser
from sasg.errors import UserError
from sasg.parts import build, resolve
from sasg.report import html, tables
from sasg.report.html import Page, Part
from sasg.report.runs import Entry, entries_in, look_up
from sasg.report.series import in_usual_order
from sasg.report.time_figures import MEASURED
from sasg.report.tuning import without_trials
from sasg.report.writing import Table

OURS = CONF.parent / "results" / "runs"  # in a checkout
_FIRST = ("table2", "sparsity", "heterogeneous")
_SUITE = Page(
    "How much communication does a method save, at what accuracy?",
    """Ten workers learn together with a server. Four methods of one paper (<em>SASG</em>, arXiv 2112.04088) and others
differ in <strong>when</strong> a worker uploads and <strong>what</strong>: SGD everything always, Sparse the largest
1 % always, LASG everything but only where gradients changed, SASG the largest 1 % only where gradients changed.""",
    (
        "make reproduce-table2 TASKS=mnist      # Tables I and II; also cifar10, cifar100",
        "make reproduce-table3                  # Table III on this machine's links",
        "sasg study sparsity",
        "sasg study heterogeneous",
        "make reproduce-figures                 # results/figures, as PDF and PNG",
        "make report                            # this page",
    ),
)


def main() -> int:
    """Write the report."""
    parser = Parser(__doc__)
    parser.add_argument("--runs-dir", type=Path, default=Path("results/runs"), help="default: results/runs")
    parser.add_argument("--study", action="append", default=[], help="show its tables; may be given several times")
    parser.add_argument("--out", type=Path, help="default: report.html beside the folder of runs")
    options = parser.parse_args()
    runs_dir = options.runs_dir
    out = options.out or runs_dir.parent / "report.html"
    if runs_dir.resolve() == OURS and not options.study:
        print(html.write(_SUITE, _suite(runs_dir), out))
        return 0
    if out.resolve() == (OURS.parent / "report.html").resolve():
        raise UserError(f"{out}: is the report on the suite's own runs; give --out FILE for one on others")
    parts = [_study(name, runs_dir) for name in options.study] or [_runs(runs_dir.name, entries_in([runs_dir]))]
    print(html.write(_page(runs_dir, options.study, out), parts, out))
    return 0


def _suite(runs_dir: Path) -> list[Part]:
    """All studies, and what else is there."""
    others = sorted(path.stem for path in (CONF / "study").glob("*.yaml") if path.stem not in (*_FIRST, "demo"))
    parts = [_study(study, runs_dir) for study in (*_FIRST, *others)]
    parts.append(Part("Table III", [], [html.table3(MEASURED)]))
    known = {entry.run.path.name for part in parts for entry in part.entries if entry.run}
    there = entries_in([runs_dir]) if any(runs_dir.glob("*/config.json")) else []
    if rest := [entry for entry in there if not entry.run or entry.run.path.name not in known]:
        parts.append(_runs("other runs", rest))
    return parts


def _study(name: str, runs_dir: Path) -> Part:
    """A study's runs, finished or not, and its tables."""
    study = load_study(name)
    entries = look_up(with_tuning(study, study_configs(name, str(runs_dir))))
    made = []
    for number, part in enumerate(study.report):
        where, spec = f"report[{number}]", {key: value for key, value in part.items() if key != "file"}
        function, _ = resolve(where, spec, ("entries",))
        if typing.get_type_hints(function).get("return") is Table:
            made.append(build(where, spec, entries=entries))
    return Part(name, without_trials(entries), [table for table in made if table.rows])


def _runs(name: str, entries: Sequence[Entry]) -> Part:
    """Runs, whatever they are."""
    entries = in_usual_order(entries)
    return Part(name, entries, [tables.any_runs(entries), tables.totals(entries)])


def _page(runs_dir: Path, studies: Sequence[str], out: Path) -> Page:
    named = "".join(f" --study {name}" for name in studies)
    again = [
        *(f"sasg study {name} runs_dir={runs_dir}" for name in studies),
        f"sasg table {runs_dir}",
        f"sasg plot {runs_dir}",
        f"sasg report --runs-dir {runs_dir}{named} --out {out}   # this page",
    ]
    return Page(text.escape(": ".join([*studies, f"Runs in {runs_dir}"])), "", again)
