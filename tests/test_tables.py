"""The study's tables: the paper's numbers, and ours beside them from run folders."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.study import compose_grid, load_study
from sasg.cluster.accounting.ledger import COLUMNS
from sasg.config import Config
from sasg.errors import UserError
from sasg.report.latex import as_tex
from sasg.report.published import published
from sasg.report.runs import look_up
from sasg.report.writing import as_csv, as_markdown, write_part

TABLE2 = {"kind": "crossing", "file": "table2", "published": "table2"}

VALUES = {"mnist": {"sgd": 407050, "sparse": 4071}, "cifar10": {"sgd": 11173962, "sparse": 111723}}
"""Uploaded values per round; 1 % of CIFAR-100's 11,220,132 parameters are 112,184."""
VALUES |= {"cifar100": {"sgd": 11220132, "sparse": 112184}}


def test_published_bits_are_rounds_times_32_bits_per_value():
    table = published("table2")
    assert len(table) == 12
    for (task, method), row in table.items():
        values = VALUES[task]["sgd" if method in ("sgd", "lasg") else "sparse"]
        assert float(row["paper_bits"]) == pytest.approx(int(row["rounds"]) * 32 * values, rel=6e-3)
        assert "2112.04088" in row["source"]


def test_there_is_no_other_published_table():
    with pytest.raises(UserError, match=r"table9.csv: the published numbers"):
        published("table9")


def finish(config: Config, rounds: int | None, accuracy: float = 0.983, status: str = "finished") -> None:
    """Write a finished run's folder: `rounds` at the crossing (None: it never crosses), of 1,000 bits each."""
    identity = config.identity("d" * 64, "cpu")
    path = Path(config.runs_dir) / config.run_name(identity)
    path.mkdir(parents=True)
    bits = {"value_bits": 1000, "paper_bits": 1000, "index_bits_int32": 1000, "index_bits_log2": 400}
    crossing = rounds and {
        "rounds": rounds,
        **{name: rounds * bits.get(name, 0) for name in COLUMNS[1:]},
        "flag_bits": 7,
    }
    summary = {
        "status": status,
        "num_rows": 1,
        "iterations": 100,
        "crossing": crossing,
        "final": {"top1": accuracy, "top5": 1.0},
        "skipped_share": 0.25,
        "device": "a processor",
        "versions": {"torch": "2.0"},
        "data": "the original images",
    }
    (path / "config.json").write_text(json.dumps(identity))
    (path / "metrics.csv").write_text("iteration\n100\n")
    (path / "uploads.npz").write_text("")
    (path / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def grid(tmp_path) -> list[Config]:
    study = load_study("table2")
    configs = compose_grid(["mnist", "cifar10"], study.methods, [1, 19])
    return [replace(config, runs_dir=str(tmp_path / "runs")) for config in configs]


@pytest.fixture
def table(grid, tmp_path) -> dict[tuple[str, str, str], dict[str, str]]:
    """SASG twice, SGD once, LASG once with and once without a crossing, Sparse diverged; nothing on CIFAR-10."""
    rounds = {("sasg", 1): 20000, ("sasg", 19): 24000, ("sgd", 1): 60000, ("lasg", 1): 33000, ("lasg", 19): None}
    for config in grid:
        key = config.algorithm["name"], config.seed
        if config.task.name == "mnist" and key in rounds:
            finish(config, rounds[key])
        if config.task.name == "mnist" and key == ("sparse", 1):
            finish(config, None, status="diverged")
    write_part("report", TABLE2, look_up(grid), tmp_path / "out")
    with (tmp_path / "out/table2.csv").open() as file:
        return {(row["task"], row["method"], row["quantity"]): row for row in csv.DictReader(file)}


def test_ours_beside_the_published(table):
    row = table["mnist", "sasg", "rounds"]
    assert (row["published"], row["mean"], row["minimum"], row["maximum"]) == ("22823", "22000", "20000", "24000")
    assert float(row["ratio"]) == pytest.approx(22000 / 22823, rel=1e-5)
    assert (row["n"], row["n_planned"], row["status"]) == ("2", "2", "2 of 2")
    assert float(row["sd"]) == pytest.approx(2828.43)
    assert (row["low"], row["high"]) == ("", "")  # no interval of two runs
    assert table["mnist", "sgd", "rounds"]["status"] == "1 of 2"


def test_real_bits_have_indices_and_flags(table):
    assert float(table["mnist", "sgd", "paper_bits"]["mean"]) == 60000 * 1000
    assert float(table["mnist", "sgd", "uplink_bits_int32"]["mean"]) == pytest.approx(60000 * 2000 + 7, rel=1e-5)
    assert float(table["mnist", "sgd", "uplink_bits_log2"]["mean"]) == pytest.approx(60000 * 1400 + 7, rel=1e-5)


def test_not_crossing_not_finishing_and_not_run_are_said(table):
    row = table["mnist", "lasg", "rounds"]
    assert (row["mean"], row["ratio"], row["minimum"], row["status"]) == ("", "", "33000", "2 of 2")
    assert row["n_without_value"] == "1"
    assert table["mnist", "lasg", "final_accuracy"]["mean"] == "0.983"
    diverged = table["mnist", "sparse", "final_accuracy"]
    assert (diverged["mean"], diverged["status"]) == ("", "0 of 2; seed 1 diverged at iteration 100")
    row = table["cifar10", "sasg", "rounds"]
    assert (row["published"], row["mean"], row["n"], row["status"]) == ("90846", "", "0", "not run")


def test_markdown_and_tex_say_the_same(table, tmp_path):
    markdown, tex = ((tmp_path / f"out/table2{end}").read_text() for end in (".md", ".tex"))
    cells = [cell.strip() for cell in next(line for line in markdown.splitlines() if "| SASG" in line).split("|")[1:-1]]
    assert cells[:5] == ["MNIST", "SASG", "22,823", "22,000 ± 2,828", "0.96"]
    assert cells[-3:] == ["98.30 % ± 0.00 %", "25.00 %", "2 of 2"]
    in_paper = [cells[place].replace(" % ±", " ±") for place in (1, 2, 3, 5, 6, 9, 10)]
    assert " & ".join(cell.replace("%", r"\%").replace("±", r"$\pm$") for cell in in_paper) in tex
    assert r"\emph{MNIST}" in tex
    assert "1 of 2 cross" in markdown and "0 of 1 finish" in markdown and markdown.count("not run") >= 4
    assert "MNIST: 6 runs on cpu (a processor), torch 2.0; preset reference; data: the original images" in markdown


def test_each_row_names_its_runs(table, grid, tmp_path):
    """Links from the table's folder to the runs' folders, and what became of runs that are not there."""
    markdown = (tmp_path / "out/table2.md").read_text()
    (line,) = [line for line in markdown.splitlines() if line.startswith("* SASG: ") and "runs/" in line]
    links = re.findall(r"\[seed (\d+)\]\((.*?)\)", line)
    assert [seed for seed, _ in links] == ["1", "19"]
    for seed, path in links:
        identity = json.loads((tmp_path / "out" / path / "config.json").read_text())
        assert (identity["algorithm"]["name"], str(identity["seed"])) == ("sasg", seed)
    assert re.search(r"\* Sparse: \[seed 1\]\(.*?\) diverged at iteration 100, seed 19 not run", markdown)


def test_paired_comparison_over_equal_seeds(table, tmp_path):
    with (tmp_path / "out/table2_paired.csv").open() as file:
        pairs = {(row["method"], row["quantity"]): row for row in csv.DictReader(file)}
    assert (pairs["sgd", "rounds"]["n"], float(pairs["sgd", "rounds"]["mean"])) == ("1", pytest.approx(1 / 3, rel=1e-5))
    assert (pairs["lasg", "rounds"]["n"], pairs["lasg", "rounds"]["n_without_value"]) == ("2", "1")


def test_same_bytes_again(table, grid, tmp_path):
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write_part("report", TABLE2, look_up(grid), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_formats():
    assert as_csv([{"a": None, "b": 1 / 3, "c": "x,y"}]) == 'a,b,c\n,0.333333,"x,y"\n'
    assert as_markdown(["a", "b", "c"], [["1", "2", "30"]]).splitlines()[1:] == [
        "|-----|-----|----:|",
        "| 1   | 2   |  30 |",
    ]
    tex = as_tex(["a", "b"], [["x_1", "5 %"], ["y", "1"]], "label", "A & B")
    assert r"x\_1 & 5 \% \\" in tex and r"\caption{A \& B}" in tex and tex.count(r"\midrule") == 1
