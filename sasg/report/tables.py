"""The tables of the studies, and that of any runs: which columns, and how to read them.

Each is a part of a report, f(entries, **options) -> Table.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sasg.cluster.accounting.ledger import uplink_bits
from sasg.errors import UserError
from sasg.problem.evaluation import OWN_STATISTICS
from sasg.report.columns import (
    PAPER_BITS,
    ROUNDS,
    SKIPPED,
    Column,
    Given,
    OfLedger,
    OverSeeds,
    at_baseline,
    count,
    final,
    of_totals,
    uplink_to_baseline,
    whole_seconds,
)
from sasg.report.curves import CODE
from sasg.report.judging import baseline_name, final_name, side
from sasg.report.names import METRICS, method_name, percent, task_name
from sasg.report.published import published as published_numbers
from sasg.report.runs import Entry, Run
from sasg.report.series import Series, all_series
from sasg.report.statistics import INTERVAL, INTERVAL_NOTE, Statistics, paired_ratios
from sasg.report.times import link_of, seconds_to_baseline
from sasg.report.times import links as all_links
from sasg.report.writing import Row, Table

COMPARED = (ROUNDS, PAPER_BITS, uplink_to_baseline("int32"), uplink_to_baseline("log2"))
_CROSSING_NOTES = """Means over seeds (± the standard deviation), up to the first evaluation SIDE the baseline.
Paper bits are 32 bits per uploaded value, as the paper counts; uplink bits are all that is uploaded: the values
with the bits that they really have (fewer than 32 where they are quantised), the indices (32 bits, or the fewest
that can number the entries of a tensor) and one flag per worker and iteration. Where a run never crosses the
baseline there is no mean: the cell says how many do.
"""


def crossing(entries: Sequence[Entry], published: str | None = None, reference: str = "sasg") -> Table:
    """Like the paper's Table II: rounds and bits to the baseline, published and ours side by side.

    published: a table of results/paper. reference: the method that the paired comparison sets against each other one,
    over the seeds that both have.
    """
    series = all_series(entries)
    known = published_numbers(published) if published else {}
    columns: list[Column] = []
    for column in (ROUNDS, PAPER_BITS):
        columns += _beside_published(column, known) if published else [column]
    columns += [*COMPARED[2:], final(series), SKIPPED]
    caption = f"Rounds and bits to the {_name(series)} ({_baselines(series)})"
    titles = ("Task", "Method", *(column.title for column in columns if column.key != "ratio"))
    paper = tuple(title for title in titles if title not in ("Uplink bits int32", "Skipped"))
    sections = [_spread(series, known)]
    if (pairs := _paired(series, reference)).rows:
        sections.append(pairs)
    table = Table.of(caption, series, columns, _notes(_CROSSING_NOTES, series), sections=tuple(sections), paper=paper)
    return replace(table, numbers=[row for one in series for row in _long_rows(one, known)])


def _beside_published(column: OverSeeds, known: dict) -> list[Given | OverSeeds]:
    key, title = column.key, column.title
    return [
        Given(f"{key}_published", f"{title} published", lambda one: _theirs(one, key, known), column.form),
        replace(column, title=f"{title} ours"),
        Given("ratio", f"{title} ratio", lambda one: _ratio(one, column, known), "{:.2f}".format),
    ]


def _theirs(one: Series, key: str, known: dict) -> float | None:
    text = known.get((one.task, one.method), {}).get(key)
    return float(text) if text else None


def _ratio(one: Series, column: OverSeeds, known: dict) -> float | None:
    """Our mean / the published number."""
    ours, theirs = column.statistics(one).mean, _theirs(one, column.key, known)
    return ours / theirs if ours is not None and theirs else None


def _name(series: Sequence[Series]) -> str:
    return baseline_name(series) or "baseline"


def _notes(notes: str, series: Sequence[Series]) -> str:
    return notes.replace("SIDE", side(series))


def _baselines(series: Sequence[Series]) -> str:
    words = []
    for one in series:
        baseline = one.config.task.baseline
        value = "no baseline"
        if baseline is not None:
            number = f"{100 * baseline.value:g} %" if baseline.target is None else f"below {baseline.target:g}"
            value = f"{METRICS[baseline.metric]} {number}"
        words.append(f"{task_name(one.task)} {value}")
    return ", ".join(dict.fromkeys(words))


def _long_rows(one: Series, known: dict) -> list[dict[str, Any]]:
    rows = []
    for column in (*COMPARED, final([one]), SKIPPED):
        found = column.statistics(one)
        rows.append(
            {
                "task": one.task,
                "method": one.method,
                **one.settings,
                "quantity": column.key,
                "published": _theirs(one, column.key, known),
                "mean": found.mean,
                "ratio": _ratio(one, column, known),
                **found.columns,
                "n_planned": one.num_planned,
                "status": one.status,
            }
        )
    return rows


def _spread(series: Sequence[Series], known: dict) -> Table:
    def of(value: Callable[[Statistics], Any]) -> Callable[[Series], Any]:
        return lambda one: value(ROUNDS.statistics(one))

    def extreme(found: float | None) -> str | None:
        return None if found is None else count(found)

    columns = [
        Given("mean", "Mean", ROUNDS.cell),
        Given("interval", INTERVAL, of(lambda found: found.interval(count))),
        Given("minimum", "Minimum", of(lambda found: extreme(found.minimum))),
        Given("maximum", "Maximum", of(lambda found: extreme(found.maximum))),
    ]
    if known:
        columns.append(Given("published", "Published", lambda one: _theirs(one, "rounds", known), count))
        columns.append(Given("lies", "which lies", lambda one: _where(one, known)))
    return Table.of("Rounds over seeds", series, columns, INTERVAL_NOTE)


def _where(one: Series, known: dict) -> str | None:
    number, found = _theirs(one, "rounds", known), ROUNDS.statistics(one)
    if number is None or found.mean is None or found.minimum is None or found.maximum is None:
        return None
    if number < found.minimum:
        return "below our range"
    return "above our range" if number > found.maximum else "within our range"


def _paired(series: Sequence[Series], reference: str) -> Table:
    header = ("Task", "Method", "Quantity", "Mean ratio", INTERVAL, "Minimum", "Maximum", "Seeds")
    rows = []
    for one in series:
        ours = None if one.method == reference else _counterpart(one, series, reference)
        if ours is None or one.config.task.baseline is None:
            continue
        for column in COMPARED:
            found = paired_ratios(column.by_seed(ours), column.by_seed(one))
            if found.n:
                numbers = {"task": one.task, "method": one.method, **one.settings, "quantity": column.key}
                rows.append(Row(_ratio_cells(one, column, found), numbers | {"mean": found.mean, **found.columns}))
    caption = f"{method_name(reference)} against each other method: ratios over equal seeds"
    return Table(caption, header, tuple(rows), "", name="paired")


def _counterpart(one: Series, series: Sequence[Series], method: str) -> Series | None:
    """The other method's series with the same settings, or its only one."""
    others = [other for other in series if (other.task, other.method) == (one.task, method)]
    alike = [other for other in others if other.settings == one.settings]
    return next(iter(alike or (others if len(others) == 1 else [])), None)


def _ratio_cells(one: Series, column: OverSeeds, found: Statistics) -> tuple[str, ...]:
    form = "{:.4g}".format
    numbers = ["" if value is None else form(value) for value in (found.mean, found.minimum, found.maximum)]
    seeds = f"{found.n}" + (f", {found.num_missing} without a crossing" if found.num_missing else "")
    return (task_name(one.task), one.label, column.title, numbers[0], found.interval(form), *numbers[1:], seeds)


_COST_NOTES = """M workers, d parameters, k uploaded values, |S| workers that upload (S in the table). Paper bits
are 32 k or 32 d an upload; with indices: 32 bits for each, and a flag per worker where workers may skip. Downlink:
unicast.
"""


def cost(entries: Sequence[Entry]) -> Table:
    """Table I: what one iteration costs, the paper's formulas beside what the runs' ledgers counted."""
    formulas = published_numbers("table1")

    def formula(key: str, title: str) -> Given:
        return Given(f"{key}_published", title, lambda one: formulas.get(("", one.method), {}).get(key), _plain)

    def counted(key: str, title: str, of: OfLedger, form: Callable[[float], str] = "{:.3E}".format) -> OverSeeds:
        def per_iteration(run: Run) -> float:
            return of(run.summary["totals"]) / run.summary["iterations"]

        return OverSeeds(key, title, per_iteration, form)

    columns: list[Column] = [
        formula("rounds", "Rounds (paper)"),
        counted("rounds", "Rounds", lambda totals: totals["rounds"], "{:.3g}".format),
        formula("bits", "Bits (paper)"),
        of_totals(
            "values_per_upload", "Values per upload", lambda totals: totals["paper_bits"] / 32 / totals["rounds"], count
        ),
        counted("paper_bits", "Paper bits", lambda totals: totals["paper_bits"]),
        counted("uplink_bits_int32", "With indices", lambda totals: uplink_bits(totals, "int32")),
        counted("downlink_bits_int32", "Downlink", lambda totals: totals["downlink_unicast_bits_int32"]),
    ]
    caption = "Cost of one iteration: the paper's formulas, and what was counted (means over seeds and iterations)"
    paper = ("Task", "Method", "Rounds (paper)", "Rounds", "Bits (paper)", "Paper bits", "With indices", "Downlink")
    return Table.of(caption, all_series(entries), columns, _COST_NOTES, paper=paper)


def _plain(formula: str) -> str:
    return formula.replace("|S|", "S")  # bars are a table's own


_LINK_NOTES = f"""Means over seeds, up to the first evaluation SIDE the baseline; where a run never crosses it, the
cell says how many do. Uplink: values, indices ({CODE}: the fewest whole bits that number the entries of a tensor),
flags. Downlink: the server's update to every worker, dense or on its support, whichever is shorter. Seconds:
communication alone, upload, flags and download, modelled from the ledger on the links of conf/link; no computation.
"""


def links(entries: Sequence[Entry]) -> Table:
    """What it takes to reach the baseline when everything is counted: real bits both ways, seconds on links."""
    columns = [
        replace(uplink_to_baseline(CODE), key="uplink_bits", title="Uplink bits", form="{:.3E}".format),
        at_baseline(
            "downlink_bits", "Downlink bits", lambda totals: totals[f"downlink_unicast_bits_{CODE}"], "{:.3E}".format
        ),
        *(on_link(name) for name, link in all_links().items() if link.up_bits_per_second),
    ]
    series = all_series(entries)
    return Table.of(f"To the {_name(series)}, everything counted", series, columns, _notes(_LINK_NOTES, series))


def on_link(name: str) -> OverSeeds:
    """Modelled seconds of communication up to the crossing on a link of conf/link."""
    link = link_of(name)
    return OverSeeds(
        f"seconds_{name}", f"Seconds {name}", lambda run: seconds_to_baseline(run, link), whole_seconds, "baseline"
    )


_TOTALS_NOTES = f"""Of whole runs, means over seeds. A round is one upload by one worker; an iteration of local SGD
is several mini-batches. Uplink: values, indices ({CODE}), side scalars, flags. Downlink: once per worker that
receives something. Training seconds are wall-clock time without evaluations, of all workers of a simulation
together; they depend on what else the machine had to do.
"""


def totals(entries: Sequence[Entry]) -> Table:
    """What whole runs cost, and what they reach."""
    series = all_series(entries)
    columns = [
        OverSeeds("iterations", "Iterations", lambda run: run.summary["iterations"], count),
        of_totals("rounds", "Rounds", lambda totals: totals["rounds"], count),
        OverSeeds(
            "share_of_rounds", "Share of rounds", lambda run: 1 - run.summary["skipped_share"], lambda v: percent(v, 1)
        ),
        of_totals("uplink_bits", "Uplink bits", lambda totals: uplink_bits(totals, CODE)),
        of_totals("downlink_bits", "Downlink bits", lambda totals: totals[f"downlink_unicast_bits_{CODE}"]),
        final(series),
        OverSeeds("training_seconds", "Training seconds", lambda run: run.summary["training_seconds"], whole_seconds),
    ]
    paper = ("Task", "Method", *(column.title for column in columns[:-1]))
    caption = f"Cost and {final_name(series)} of whole runs"
    return Table.of(caption, series, columns, _TOTALS_NOTES, paper=paper)


_SOURCE_NOTES = """At the end of the run, means over seeds. Accuracy: top-1 on each source's own test set, and their
mean. Own: BatchNorm normalises with the running statistics of the workers that hold the source, instead of
everyone's. Skipped: share of (iteration, worker) pairs without an upload, of the workers that hold the source.
"""


def sources(entries: Sequence[Entry], sources: tuple[str, ...]) -> Table:
    """Runs on several sources of images: accuracy on each source's test set, and which workers skip.

    sources: in the order of the data set's; worker m holds source m mod S (shards by_source).
    """
    names = [task_name(source) for source in sources]

    def at_end(key: str, title: str) -> OverSeeds:
        return OverSeeds(key, title, lambda run: run.summary["final"].get(key), percent)

    def skipped(number: int) -> OverSeeds:
        key, title = f"skipped_{sources[number]}", f"Skipped {names[number]}"
        return OverSeeds(key, title, lambda run: _skipped_by(run, number, len(sources)), percent)

    columns = [at_end(f"top1_{source}", f"Accuracy {name}") for source, name in zip(sources, names, strict=True)]
    columns.append(at_end("top1", "Mean accuracy"))
    for source, name in zip(sources, names, strict=True):
        columns.append(at_end(f"top1_{source}{OWN_STATISTICS}", f"Own {name}"))
    columns.append(at_end(f"top1{OWN_STATISTICS}", "Own mean"))
    columns.append(of_totals("rounds", "Rounds", lambda t: t["rounds"], count))
    columns += [replace(SKIPPED, key="skipped"), *map(skipped, range(len(sources)))]
    paper = ("Task", "Method", "Mean accuracy", *(f"Own {name}" for name in names), "Own mean", "Rounds", "Skipped")
    return Table.of("Accuracy and skipped uploads by source", all_series(entries), columns, _SOURCE_NOTES, paper=paper)


def _skipped_by(run: Run, source: int, num_sources: int) -> float:
    return 1 - float(np.mean(run.uploads[:, source::num_sources]))


def any_runs(entries: Sequence[Entry], link: str | None = None, columns: str | None = None) -> Table:
    """A table of any runs; with a link of conf/link, also of the communication time that it would take.

    columns: keys of the CSV separated by commas, to choose from. UserError: one that is not there.
    """
    series = all_series(entries)
    shown = [ROUNDS, *(replace(column, form="{:.3E}".format) for column in COMPARED[1:]), final(series), SKIPPED]
    if link:
        title = f"Seconds to baseline ({link}, modelled)"
        shown.append(replace(on_link(link), title=title, form="{:,.4g}".format))
    if columns:
        known = {column.key: column for column in shown}
        if unknown := [key for key in columns.split(",") if key not in known]:
            raise UserError(f"--columns={columns}: no {', '.join(unknown)}; choose from {', '.join(known)}")
        shown = [known[key] for key in columns.split(",")]
    caption = f"Rounds and bits to the {_name(series)} ({_baselines(series)})"
    return Table.of(caption, series, shown, _notes(_CROSSING_NOTES, series))
