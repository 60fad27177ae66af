"""Tables like the paper's Table II: rounds and bits to the baseline accuracy, published and ours side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sasg.report.names import METHODS, METRICS, percent
from sasg.report.published import published as published_numbers
from sasg.report.runs import Entry, Run
from sasg.report.statistics import Statistics, over_seeds, paired_ratios
from sasg.report.tables import as_csv, as_markdown, as_tex, write_and_show

NOT_RUN = "not run"


def _at_crossing(column: str) -> Callable[[Run], int | None]:
    return lambda run: run.summary["crossing"] and run.summary["crossing"][column]


def _at_end(value: Callable[[Run], float]) -> Callable[[Run], float | None]:
    return lambda run: value(run) if run.summary["status"] == "finished" else None


def _final_accuracy(run: Run) -> float:
    return run.summary["final"][run.identity["task"]["baseline"]["metric"]]


QUANTITIES: dict[str, Callable[[Run], float | None]] = {
    "rounds": _at_crossing("rounds"),
    "paper_bits": _at_crossing("paper_bits"),
    "uplink_bits_int32": lambda run: run.uplink_bits_to_baseline("int32"),
    "uplink_bits_log2": lambda run: run.uplink_bits_to_baseline("log2"),
    "final_accuracy": _at_end(_final_accuracy),
    "skipped_share": _at_end(lambda run: run.summary["skipped_share"]),
}
"""What is read from a run; None where it never crosses its baseline, or where it diverged."""

COMPARED = ("rounds", "paper_bits", "uplink_bits_int32", "uplink_bits_log2")


@dataclass(frozen=True)
class Cell:
    """One method on one task: its runs, and what the paper says ({}: nothing)."""

    task: str
    method: str
    entries: list[Entry]
    published: dict[str, str]

    @property
    def runs(self) -> dict[int, Run]:
        """The finished runs by seed."""
        return {entry.config.seed: entry.run for entry in self.entries if entry.run}

    @property
    def status(self) -> str:
        return f"{len(self.runs)} of {len(self.entries)}" if self.runs else NOT_RUN

    def values(self, quantity: str) -> dict[int, float | None]:
        """A quantity by seed."""
        return {seed: QUANTITIES[quantity](run) for seed, run in self.runs.items()}

    def statistics(self, quantity: str) -> Statistics:
        return over_seeds(list(self.values(quantity).values()))

    def published_number(self, quantity: str) -> float | None:
        return float(self.published[quantity]) if quantity in self.published else None

    def ratio(self, quantity: str) -> float | None:
        """Our mean / the published number."""
        ours, theirs = self.statistics(quantity).mean, self.published_number(quantity)
        return ours / theirs if ours is not None and theirs else None


def write(
    entries: Sequence[Entry], folder: Path, file: str, published: str | None = None, reference: str = "sasg"
) -> str:
    """Write FILE.csv, FILE.md, FILE.tex and FILE_paired.csv; returns what to print.

    published: a table of results/paper, set beside our numbers. reference: the method that the paired comparison
    sets against each other one, over the seeds that both have.
    """
    cells = _cells(entries, published_numbers(published) if published else {})
    header, rows = _main_table(cells, with_published=published is not None)
    main = as_markdown(header, rows)
    pairs = _paired(cells, reference)
    documents = {
        f"{file}.csv": as_csv([row for cell in cells for row in _long_rows(cell)]),
        f"{file}.md": "\n".join([f"# {_caption(cells)}\n", main, *_notes(cells), *_sections(cells, pairs, reference)]),
        f"{file}.tex": as_tex(header, rows, file, _caption(cells)),
    }
    if pairs:
        documents[f"{file}_paired.csv"] = as_csv(pairs)
    return write_and_show(folder, documents, main)


def _cells(entries: Sequence[Entry], numbers: dict[tuple[str, str], dict[str, str]]) -> list[Cell]:
    grouped: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        grouped.setdefault((entry.task, entry.method), []).append(entry)
    return [Cell(task, method, group, numbers.get((task, method), {})) for (task, method), group in grouped.items()]


def _long_rows(cell: Cell) -> list[dict[str, Any]]:
    rows = []
    for quantity in QUANTITIES:
        found = cell.statistics(quantity)
        rows.append(
            {
                "task": cell.task,
                "method": cell.method,
                "quantity": quantity,
                "published": cell.published.get(quantity),
                "mean": found.mean,
                "ratio": cell.ratio(quantity),
                "low": found.low,
                "high": found.high,
                "minimum": found.minimum,
                "maximum": found.maximum,
                "n": found.n,
                "n_planned": len(cell.entries),
                "n_without_value": found.num_missing,
                "status": _status(quantity, found, len(cell.entries)),
            }
        )
    return rows


def _status(quantity: str, found: Statistics, planned: int) -> str:
    if not found.n:
        return NOT_RUN
    if found.num_missing:
        return f"{found.num_missing} of {found.n} {'never cross' if quantity in COMPARED else 'diverged'}"
    return "complete" if found.n == planned else f"{found.n} of {planned} run"


def _main_table(cells: Sequence[Cell], with_published: bool) -> tuple[list[str], list[list[str]]]:
    compared = ["published", "ours", "ratio"] if with_published else [""]
    header = ["Task", "Method"]
    header += [f"Rounds {which}".strip() for which in compared]
    header += [f"Paper bits {which}".strip() for which in compared]
    header += ["Uplink bits int32", "Uplink bits log2", "Final accuracy", "Skipped", "Runs"]
    rows = []
    for cell in cells:
        row = [cell.task, METHODS.get(cell.method, cell.method)]
        for quantity in ("rounds", "paper_bits"):
            row += _beside_published(cell, quantity) if with_published else [_mean(cell, quantity)]
        row += [_mean(cell, quantity) for quantity in list(QUANTITIES)[2:]]
        rows.append([*row, cell.status])
    return header, rows


def _beside_published(cell: Cell, quantity: str) -> list[str]:
    number, ratio = cell.published_number(quantity), cell.ratio(quantity)
    return [
        "" if number is None else _text(quantity, number),
        _mean(cell, quantity),
        "" if ratio is None else f"{ratio:.2f}",
    ]


def _mean(cell: Cell, quantity: str) -> str:
    found = cell.statistics(quantity)
    if not found.n:
        return NOT_RUN
    if found.mean is None:
        return f"{found.n - found.num_missing} of {found.n} {'cross' if quantity in COMPARED else 'finish'}"
    return _text(quantity, found.mean)


def _text(quantity: str, value: float | None) -> str:
    if value is None:
        return ""
    if "bits" in quantity:
        return f"{value:.2E}"
    return f"{value:,.0f}" if quantity == "rounds" else percent(value)


def _caption(cells: Sequence[Cell]) -> str:
    baselines = {}
    for cell in cells:
        baseline = cell.entries[0].config.task.baseline
        value = percent(baseline.value, 0) if baseline.target is None else f"{baseline.target:g}"
        baselines[cell.task] = f"{cell.task} {METRICS[baseline.metric]} {value}"
    return f"Rounds and bits to the baseline accuracy ({', '.join(baselines.values())})"


def _notes(cells: Sequence[Cell]) -> list[str]:
    """What the table's reader must know: how the numbers are made, and on what."""
    notes = [
        "Means over seeds (n in the last column), up to the first evaluation above the baseline. Paper bits are\n"
        "32 bits per uploaded value; uplink bits add the indices (32 bits, or the fewest that can number the entries\n"
        "of a tensor) and one flag per worker and iteration. Where a run never crosses the baseline there is no\n"
        "mean: the cell says how many do.\n"
    ]
    for task in dict.fromkeys(cell.task for cell in cells):
        runs = [run for cell in cells if cell.task == task for run in cell.runs.values()]
        for made in sorted({_made_with(run) for run in runs}):
            notes.append(f"- {task}: {sum(_made_with(run) == made for run in runs)} runs on {made}")
    return [*notes, ""]


def _made_with(run: Run) -> str:
    summary = run.summary
    return (
        f"{run.identity['device']} ({summary['device']}), torch {summary['versions']['torch']}; "
        f"preset {run.identity['preset']['name']}; data: {summary['data']} (SHA-256 {run.identity['data_sha256'][:12]})"
    )


def _sections(cells: Sequence[Cell], pairs: list[dict[str, Any]], reference: str) -> list[str]:
    sections = ["## Rounds over seeds\n", _spread_table(cells)]
    if pairs:
        header = ["Task", "Method", "Quantity", "Mean ratio", "95 % interval", "Minimum", "Maximum", "Seeds"]
        rows = [
            [
                pair["task"],
                METHODS.get(pair["method"], pair["method"]),
                pair["quantity"],
                "" if pair["mean"] is None else f"{pair['mean']:.4g}",
                "" if pair["low"] is None else f"{pair['low']:.4g} to {pair['high']:.4g}",
                *("" if pair[key] is None else f"{pair[key]:.4g}" for key in ("minimum", "maximum")),
                f"{pair['n']}" + (f", {pair['n_without_value']} without a crossing" if pair["n_without_value"] else ""),
            ]
            for pair in pairs
        ]
        sections += [f"## {METHODS.get(reference, reference)} against each other method: ratios over equal seeds\n"]
        sections += [as_markdown(header, rows)]
    return sections


def _spread_table(cells: Sequence[Cell]) -> str:
    header = ["Task", "Method", "Mean", "95 % interval", "Minimum", "Maximum", "Runs"]
    with_published = any(cell.published for cell in cells)
    header += ["Published", "which lies"] if with_published else []
    rows = []
    for cell in cells:
        found, number = cell.statistics("rounds"), cell.published_number("rounds")
        interval = "" if found.low is None else f"{found.low:,.0f} to {found.high:,.0f}"
        extremes = [_text("rounds", found.minimum), _text("rounds", found.maximum)]
        where = "" if number is None or found.mean is None else _where(number, found)
        name = METHODS.get(cell.method, cell.method)
        published = [_text("rounds", number), where] if with_published else []
        rows.append([cell.task, name, _mean(cell, "rounds"), interval, *extremes, cell.status, *published])
    return as_markdown(header, rows)


def _where(number: float, found: Statistics) -> str:
    if number < found.minimum:
        return "below our range"
    return "above our range" if number > found.maximum else "within our range"


def _paired(cells: Sequence[Cell], reference: str) -> list[dict[str, Any]]:
    rows = []
    by_key = {(cell.task, cell.method): cell for cell in cells}
    for cell in cells:
        ours = by_key.get((cell.task, reference))
        if ours is None or cell.method == reference:
            continue
        for quantity in COMPARED:
            found = paired_ratios(ours.values(quantity), cell.values(quantity))
            if found.n:
                rows.append(
                    {
                        "task": cell.task,
                        "method": cell.method,
                        "quantity": quantity,
                        "mean": found.mean,
                        "low": found.low,
                        "high": found.high,
                        "minimum": found.minimum,
                        "maximum": found.maximum,
                        "n": found.n,
                        "n_without_value": found.num_missing,
                    }
                )
    return rows
