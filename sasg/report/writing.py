"""The one writer: what a part of a report makes, a table or a figure, becomes files; equal content gives equal bytes.

A part is any f(entries, **options) -> Table | Figure; a study's `report:` and conf/figures.yaml name it, its options
and its `file`.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sasg.errors import UserError
from sasg.parts import build
from sasg.report.columns import METHOD, TASK, Column, Runs, settings_columns
from sasg.report.latex import as_tex, fitting
from sasg.report.names import task_name
from sasg.report.runs import Entry, Run
from sasg.report.series import Series
from sasg.report.style import save
from sasg.training.commands import repeat_command
from sasg.training.progress import counted
from sasg.training.run_folder import write_text


@dataclass(frozen=True)
class Row:
    """A row: what readers see, what programs read, and whose runs are behind it (None: nobody's)."""

    cells: tuple[str, ...]
    numbers: Mapping[str, Any]
    series: Series | None = None


@dataclass(frozen=True)
class Table:
    """A table for programs and for readers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: str
    paper: tuple[str, ...] = ()  # the columns of the LaTeX table; (): the first that fit a page
    numbers: Sequence[Mapping[str, Any]] | None = None  # of the CSV, where it is not a row for each row
    sections: tuple["Table", ...] = ()
    name: str = ""  # of a section that has a CSV file of its own

    @classmethod
    def of(cls, caption: str, series: Sequence[Series], columns: Sequence[Column], notes: str, **more: Any) -> "Table":
        """A row per series: task, method, each setting in which rows differ, `columns`, and how many runs there are."""
        settings = settings_columns(series)
        if more.get("paper"):
            more["paper"] = (*more["paper"], *(column.title for column in settings))  # rows differ in them
        columns = [TASK, METHOD, *settings, *columns, Runs()]
        rows = []
        for one in series:
            numbers = {key: value for column in columns for key, value in column.numbers(one).items()}
            rows.append(Row(tuple(column.cell(one) for column in columns), numbers, one))
        return cls(caption, tuple(column.title for column in columns), tuple(rows), notes, **more)

    @property
    def cells(self) -> list[tuple[str, ...]]:
        return [row.cells for row in self.rows]

    def csv(self) -> str:
        return as_csv(self.numbers if self.numbers is not None else [row.numbers for row in self.rows])

    def markdown(self) -> str:
        return as_markdown(self.header, self.cells)

    def tex(self, label: str) -> str:
        chosen = [place for place, title in enumerate(self.header) if title in self.paper]
        places = chosen or fitting(self.header, self.cells)
        rows = [[row[place] for place in places] for row in self.cells]
        return as_tex([self.header[place] for place in places], rows, label, self.caption)

    def documents(self, folder: Path, file: str) -> dict[str, str]:
        """Texts by name, for `folder`: CSV, Markdown with all sections and the runs behind the rows, LaTeX."""
        parts = [f"# {self.caption}\n", self.markdown(), self.notes]
        for section in self.sections:
            parts += [f"## {section.caption}\n", section.markdown(), section.notes]
        found = {f"{file}.csv": self.csv(), f"{file}.tex": self.tex(file)}
        found |= {f"{file}_{part.name}.csv": part.csv() for part in self.sections if part.name and part.rows}
        behind = _runs_behind([row.series for row in self.rows if row.series], folder)
        return {f"{file}.md": "\n".join(filter(None, [*parts, behind]))} | found


def write_part(where: str, spec: Mapping[str, Any], entries: Sequence[Entry], folder: Path) -> str:
    """Make a part of a report and write it to FILE.* in `folder`; returns what to print. UserError."""
    options = dict(spec)
    file = options.pop("file", None)
    if not file:
        raise UserError(f"{where}: needs a `file`, the name of what is written")
    if Path(str(file)).name != file:
        raise UserError(f"{where}: file={file}: must be a plain name, of files in the folder of the study's tables")
    made = build(where, options, (Table, Figure), entries=entries)
    if isinstance(made, Figure):
        return save(made, folder, file)
    if not made.rows:
        return f"{made.caption}: there is nothing to compare"
    documents = made.documents(folder, file)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        write_text(folder / name, text)
    return f"{made.markdown()}\nwritten to {folder}: {', '.join(documents)}"


def _runs_behind(series: Sequence[Series], folder: Path) -> str:
    """Links from the table's folder to the runs of each row, and what they were made with; nothing without runs."""
    if not series:
        return ""
    folders = [run.path for one in series for run in one.runs if not run.packed]
    lines = ["## The runs behind each row\n"]
    if folders:
        command = repeat_command(folders[0].parent / "NAME")
        lines.append(f"`{command}` repeats the run in the folder NAME, and compares the two.\n")
    for task in dict.fromkeys(one.task for one in series):
        of_task = [one for one in series if one.task == task]
        lines += [f"{line}\n" for line in made_on(of_task) or [f"{task_name(task)}: no run has ended"]]
        for one in of_task:
            links = _links(one, folder) if one.status != "not run" else ["not run"]
            lines.append(f"* {one.label}: {', '.join(links)}")
        lines.append("")
    return "\n".join(lines)


def _links(one: Series, folder: Path) -> list[str]:
    """A link for each run, and one for those that finished and are packed in one file."""
    packed: dict[Path, list[int]] = {}
    others = []
    for entry in one.entries:
        if entry.run and entry.run.packed and entry.run.status == "finished":
            packed.setdefault(entry.run.packed, []).append(entry.config.seed)
        else:
            others.append(_link(entry, folder))
    return others + [f"[{_seeds(seeds)}]({_relative(file, folder)})" for file, seeds in packed.items()]


def _seeds(seeds: Sequence[int]) -> str:
    """The words "seed 1", or "seeds 1-3, 9": three and more in a row by the first and the last."""
    groups: list[list[int]] = []
    for seed in sorted(seeds):
        if groups and seed == groups[-1][-1] + 1:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    words = [f"{group[0]}-{group[-1]}" if len(group) > 2 else ", ".join(map(str, group)) for group in groups]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(words)}"


def _link(entry: Entry, folder: Path) -> str:
    run = entry.found
    seed = f"seed {entry.config.seed}" + (f" ({entry.config.device})" if entry.config.device != "auto" else "")
    if run is None:
        return f"{seed} not run"
    path = _relative(run.packed or run.path, folder)
    return f"[{seed}]({path})" + ("" if run.status == "finished" else f" {run.words}")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def made_on(series: Sequence[Series]) -> list[str]:
    """How many runs of each task were made on what."""
    made = [_made_with(run) for one in series for run in one.runs]
    tasks = [task_name(one.task) for one in series for _ in one.runs]
    counts = Counter(zip(tasks, made, strict=True))
    return [f"{task}: {counted(count, 'run')} on {how}" for (task, how), count in counts.items()]


def _made_with(run: Run) -> str:
    """Device, version of torch, preset and data of a run."""
    summary, identity = run.summary, run.identity
    made = f"{identity['device']} ({summary['device']}), torch {summary['versions']['torch']}"
    data = f"{summary['data']} (SHA-256 {identity['data_sha256'][:12]})"
    preset = f"preset {identity['preset']}" if identity["preset"] else "no preset"
    return f"{made}; {preset}; data: {data}"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with the keys of the first row as header; numbers to six significant digits, None as nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return text.getvalue()


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, columns aligned so that it reads well as plain text too; numbers to the right."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    lines = [_line(header, widths), "|" + "|".join("-" * (w + 1) + _mark(i) for i, w in enumerate(widths)) + "|"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)]) + "\n"


def _mark(column: int) -> str:
    return ":" if column > 1 else "-"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text.rjust(w) if i > 1 else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))]
    return "| " + " | ".join(cells) + " |"
