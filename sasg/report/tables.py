"""Tables as CSV, Markdown and LaTeX (booktabs), the same bytes for the same content."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sasg.training.run_folder import write_text

Row = Sequence[str]

_TEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "–": "--", "×": r"$\times$"}


def write_table(
    folder: Path,
    file: str,
    numbers: Sequence[Mapping[str, Any]],
    header: Row,
    rows: Sequence[Row],
    caption: str,
    notes: str,
) -> list[str]:
    """FILE.csv of the `numbers`, and FILE.md and FILE.tex of the cells in `rows`; their names."""
    documents = {
        f"{file}.csv": as_csv(numbers),
        f"{file}.md": f"# {caption}\n\n{as_markdown(header, rows)}\n{notes}",
        f"{file}.tex": as_tex(header, rows, file, caption),
    }
    return write_documents(folder, documents)


def write_and_show(
    folder: Path,
    file: str,
    numbers: Sequence[Mapping[str, Any]],
    header: Row,
    rows: Sequence[Row],
    caption: str,
    notes: str,
) -> str:
    """`write_table`, and the table as Markdown with the names of what was written: what a report prints."""
    written = write_table(folder, file, numbers, header, rows, caption, notes)
    return f"{as_markdown(header, rows)}\nwritten to {folder}: {', '.join(written)}"


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
