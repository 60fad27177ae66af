"""Tables as a paper prints them: they fit a page of an article, in one column or two. They need booktabs alone."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap

Rows = Sequence[Sequence[str]]

_PAGE, _COLUMN = 345, 225
"""Points: the narrowest text of an article, and a column of one that has two."""

_CHARACTER, _GAP = 4.2, 6  # points: of a letter of \footnotesize, and between columns
_PAGE_LINES = 45
_TITLE = 6  # letters: a title has at least this much of a line, if it needs them
_LONGEST, _LONGEST_NAME = 17, 26  # letters of a cell, and of the first; a longer one goes on in the next line
_ESCAPES = {c: rf"\{c}" for c in "%&_#{}$"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "−": "$-$",
    "·": r"$\cdot$",
    "|": "$|$",
    "<": "$<$",
    ">": "$>$",
}


def as_tex(header: Sequence[str], rows: Rows, label: str, caption: str) -> str:
    """LaTeX of a table; a first column "Task" becomes lines of their own. Of more rows than a page: several tables.

    What is wider than a column of a two-column paper stands across its page.
    """
    tables = list(_pages(_groups(header, rows)))
    texts = []
    for number, groups in enumerate(tables, start=1):
        part = f" ({number} of {len(tables)})" if len(tables) > 1 else ""
        name = label if number == 1 else f"{label}-{number}"
        texts.append(_table(_columns(header), groups, name, caption + part))
    return "\n".join(texts)


def fitting(header: Sequence[str], rows: Rows) -> list[int]:
    """The first columns of a table, as many as fit a page, by their place."""
    places: list[int] = []
    for place in range(len(header)):
        more = [*places, place]
        if _points([header[p] for p in more], [[row[p] for p in more] for row in rows]) > _PAGE:
            break
        places = more
    return places


def _points(header: Sequence[str], rows: Rows) -> float:
    """About how wide a table is."""
    shown = [row for _, own in _groups(header, rows) for row in own]
    return sum(_CHARACTER * width + _GAP for width in _widths(_columns(header), shown))


def _columns(header: Sequence[str]) -> Sequence[str]:
    return header[1:] if _by_task(header) else header


def _by_task(header: Sequence[str]) -> bool:
    return len(header) > 1 and header[0] == "Task"


def _groups(header: Sequence[str], rows: Rows) -> list[tuple[str, list[list[str]]]]:
    """(task, rows without it), or all rows with the task ""."""
    shortened = [[_shortened(cell) for cell in row] for row in rows]
    if not _by_task(header):
        return [("", shortened)]
    return [(task, [row[1:] for row in own]) for task, own in groupby(shortened, key=lambda row: row[0])]


def _shortened(cell: str) -> str:
    """98.12 % ± 0.07 % is 98.12 ± 0.07 %, and 4 of 5 is 4/5."""
    return re.sub(r"^(\d+) of (\d+)", r"\1/\2", re.sub(r"(\S+) % ± (\S+) %", r"\1 ± \2 %", cell))


def _pages(groups: Sequence[tuple[str, Rows]]) -> Iterator[list[tuple[str, Rows]]]:
    """The groups that a page holds, then the next ones; a group is cut only where it is longer than a page."""
    page: list[tuple[str, Rows]] = []
    for task, rows in groups:
        for piece in _cut(rows):
            if page and sum(_height(own) for _, own in [*page, (task, piece)]) > _PAGE_LINES:
                yield page
                page = []
            page.append((task, piece))
    yield page


def _cut(rows: Rows) -> Iterator[Rows]:
    piece: list[Sequence[str]] = []
    for row in rows:
        if piece and _height([*piece, row]) > _PAGE_LINES:
            yield piece
            piece = []
        piece.append(row)
    yield piece


def _height(rows: Rows) -> int:
    """Lines."""
    return sum(len(_body(row)) for row in rows)


def _table(header: Sequence[str], groups: Sequence[tuple[str, Rows]], label: str, caption: str) -> str:
    widths = _widths(header, [row for _, rows in groups for row in rows])
    environment = "table*" if sum(_CHARACTER * width + _GAP for width in widths) > _COLUMN else "table"
    lines = [
        rf"\begin{{{environment}}}",
        rf"\caption{{{_escaped(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\centering\footnotesize",
        rf"\setlength{{\tabcolsep}}{{{_GAP // 2}pt}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        *_header(header, widths),
    ]
    for task, rows in groups:
        lines.append(r"\midrule")
        if task:
            lines.append(rf"\multicolumn{{{len(header)}}}{{l}}{{\emph{{{_escaped(task)}}}}} \\")
        lines += [line for row in rows for line in _body(row)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\end{{{environment}}}"]) + "\n"


def _widths(header: Sequence[str], rows: Rows) -> list[int]:
    """Letters of each column: of its cells, and of the longest piece of its title."""
    widths = []
    for place, title in enumerate(header):
        cells = [len(line) for row in rows for line in _folded(place, row[place])]
        widths.append(max([min(_TITLE, len(title)), *(len(piece.strip()) for piece in _pieces(title)), *cells]))
    return widths


def _pieces(title: str) -> list[str]:
    """Where a title may go on in the next line: after a space, and within a setting's name after a dot or a dash."""
    return re.split(r"(?<=[ ._])", title)


def _header(titles: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Titles in as many lines as the widest column of cells below them leaves, the last line filled."""
    folded = [_title(title, width) for title, width in zip(titles, widths, strict=True)]
    height = max(map(len, folded))
    filled = [[""] * (height - len(lines)) + lines for lines in folded]
    return [_line(cells) for cells in zip(*filled, strict=True)]


def _title(title: str, width: int) -> list[str]:
    lines = [""]
    for piece in _pieces(title):
        if lines[-1] and len((lines[-1] + piece).strip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def _body(row: Sequence[str]) -> list[str]:
    """A row; what is too long of a cell goes on in the next line."""
    folded = [_folded(place, cell) for place, cell in enumerate(row)]
    height = max(map(len, folded))
    filled = [lines + [""] * (height - len(lines)) for lines in folded]
    return [_line(cells, after_first=number > 0) for number, cells in enumerate(zip(*filled, strict=True))]


def _folded(place: int, cell: str) -> list[str]:
    return wrap(cell, _LONGEST if place else _LONGEST_NAME, break_long_words=False, break_on_hyphens=False) or [""]


def _line(cells: Sequence[str], after_first: bool = False) -> str:
    indent = r"\quad " if after_first and cells[0] else ""
    return indent + " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(c, c) for c in text).replace(" - ", " $-$ ")
