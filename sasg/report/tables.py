"""Tables as CSV, Markdown and LaTeX (booktabs), the same bytes for the same content."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sasg.training.run_folder import write_text

Row = Sequence[str]

_TEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "–": "--", "×": r"$\times$"}


class Table(NamedTuple):
    """A table for programs and for readers."""

    numbers: Sequence[Mapping[str, Any]]  # rows of the CSV file
    header: Row
    rows: Sequence[Row]
    caption: str
    notes: str

    def documents(self, file: str) -> dict[str, str]:
        """FILE.csv of the numbers, and FILE.md and FILE.tex of the cells in the rows: texts by name."""
        return {
            f"{file}.csv": as_csv(self.numbers),
            f"{file}.md": f"# {self.caption}\n\n{as_markdown(self.header, self.rows)}\n{self.notes}",
            f"{file}.tex": as_tex(self.header, self.rows, file, self.caption),
        }

    def write(self, folder: Path, file: str) -> str:
        """Write its documents; returns what to print."""
        return write_and_show(folder, self.documents(file), as_markdown(self.header, self.rows))


def write_and_show(folder: Path, documents: Mapping[str, str], table: str) -> str:
    """Write texts by name; returns what to print: the Markdown `table`, and the names."""
    return f"{table}\nwritten to {folder}: {', '.join(write_documents(folder, documents))}"


def write_documents(folder: Path, documents: Mapping[str, str]) -> list[str]:
    """Write texts by name; the names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        write_text(folder / name, text)
    return list(documents)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with the keys of the first row as header; numbers to six significant digits, None as nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return text.getvalue()


def as_markdown(header: Row, rows: Sequence[Row]) -> str:
    """A Markdown table, columns aligned so that it reads well as plain text too; numbers to the right."""
    widths = [max(3, *(len(row[i]) for row in (header, *rows))) for i in range(len(header))]
    lines = [_line(header, widths), "|" + "|".join("-" * (w + 1) + _mark(i) for i, w in enumerate(widths)) + "|"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)]) + "\n"


def as_tex(header: Row, rows: Sequence[Row], label: str, caption: str) -> str:
    """A LaTeX table; a change of the first column draws a rule. Needs the package booktabs."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\centering\small",
        rf"\begin{{tabular}}{{l{'l' * bool(len(header) > 1)}{'r' * (len(header) - 2)}}}",
        r"\toprule",
        _tex_line(header),
        r"\midrule",
    ]
    for before, row in zip((None, *rows), rows, strict=False):
        if before is not None and before[0] != row[0]:
            lines.append(r"\midrule")
        lines.append(_tex_line(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _mark(column: int) -> str:
    return ":" if column > 1 else "-"


def _line(row: Row, widths: Sequence[int]) -> str:
    cells = [text.rjust(w) if i > 1 else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))]
    return "| " + " | ".join(cells) + " |"


def _tex_line(row: Row) -> str:
    return " & ".join(map(_tex, row)) + r" \\"


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)
