"""LaTeX tables: they compile, fit the page of an article, and lose nothing of what they say."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sasg.report.latex import as_tex, fitting

RESULTS = Path(__file__).resolve().parent.parent / "results"
SPECIAL = r"a_b % & # $ { } ~ ^ \ < > | × ± – − ·"
needs_tex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no TeX here (texlive-latex-base)")


@pytest.mark.parametrize("options", ["", "twocolumn"])
@needs_tex
def test_every_table_of_ours_compiles_and_fits(options, tmp_path):
    texts = [path.read_text() for path in sorted(RESULTS.rglob("*.tex"))]
    assert len(texts) >= 10
    assert misfits(texts, options, tmp_path) == []


@needs_tex
def test_any_text_and_any_number_of_columns_and_rows(tmp_path):
    header = ["Task", "Method", "algorithm.compressor.density", *(f"Number {n}" for n in range(20))]
    rows = [["digits", f"{SPECIAL} {n}", "0.01", *["1.234E+11"] * 20] for n in range(100)]
    places = fitting(header, rows)
    assert 4 < len(places) < len(header) and places == list(range(len(places)))
    cut = [[row[place] for place in places] for row in rows]
    assert misfits([as_tex([header[p] for p in places], cut, "x", SPECIAL)], "", tmp_path) == []


def misfits(texts, options, folder) -> list[str]:
    """What TeX says is too wide, too high or wrong on a page of an article."""
    body = "\\clearpage\n".join(texts)
    head = f"\\documentclass[{options}]{{article}}\n\\usepackage{{booktabs}}\n"
    (folder / "page.tex").write_text(f"{head}\\begin{{document}}\n{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL)
    lines = done.stdout.decode(errors="replace").splitlines()
    return [line for line in lines if re.match(r"!|Overfull|LaTeX Warning: Float too large", line)]


def test_special_characters_are_escaped():
    tex = as_tex(["Method", "x"], [[SPECIAL, "1"]], "x", "1 < 2")
    assert r"1 $<$ 2" in tex
    for text in (r"a\_b \% \&", r"\# \$ \{ \}", r"\textbackslash{}", r"$\pm$"):
        assert text in tex, text


def test_a_task_is_a_line_of_its_own_and_long_names_go_on():
    rows = [["MNIST", "Majority vote, add-drop, quantised", "98.12 % ± 0.07 %"], ["Digits", "SGD", "4 of 5 cross"]]
    tex = as_tex(["Task", "Method", "Final accuracy"], rows, "x", "y")
    assert r"\multicolumn{2}{l}{\emph{MNIST}} \\" in tex and tex.count(r"\midrule") == 2
    assert "Majority vote, add-drop, & 98.12 $\\pm$ 0.07 \\% \\\\\n\\quad quantised &  \\\\" in tex
    assert r"SGD & 4/5 cross \\" in tex


def test_a_page_holds_45_rows_and_tasks_stay_together():
    rows = [[task, f"m{n}", str(n)] for task in ("a", "b", "c") for n in range(20)]
    tex = as_tex(["Task", "Method", "x"], rows, "t", "y")
    first, second = tex.split(r"\end{table}")[:2]
    assert r"\emph{b}" in first and r"\emph{c}" in second and r"\emph{c}" not in first
    assert r"\label{tab:t}" in first and "(1 of 2)" in first and r"\label{tab:t-2}" in second
    alone = as_tex(["Method", "x"], [[f"m{n}", str(n)] for n in range(50)], "t", "y")
    assert alone.count(r"\begin{table}") == 2 and all(f"m{n} &" in alone for n in range(50))
