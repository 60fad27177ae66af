"""What is said of two runs, of runs on two devices, on several sources, and on links."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments import compare as command
from experiments.study import compose_grid
from sasg.__main__ import telling_user_errors
from sasg.cluster.accounting.ledger import uplink_bits
from sasg.config import Config
from sasg.report import comparison, tables
from sasg.report.comparison import compare
from sasg.report.runs import Entry, Run, entries_in, look_up
from sasg.report.series import all_series
from sasg.report.writing import write_part
from sasg.training.run_folder import RunFolder, read_uploads
from tests import small_runs

DEVICES = {"kind": "devices", "file": "devices"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[Config]]:
    runs_dir = tmp_path_factory.mktemp("comparison") / "runs"
    return runs_dir, small_runs.make(runs_dir, ["sgd", "sasg"], [1])


@pytest.fixture
def pair(made, tmp_path) -> tuple[Run, Run]:
    """SASG's run and a copy of it."""
    (run,) = (entry.run for entry in look_up(made[1]) if entry.method == "sasg")
    return run, Run(Path(shutil.copytree(run.path, tmp_path / run.path.name)), run.identity, run.summary)


def change(run: Run, iteration: int, worker: int, evaluation: int, column: str, factor: float) -> None:
    """Another decision, and another number."""
    uploads = read_uploads(run.path / "uploads.npz")
    uploads[iteration - 1, worker] ^= True
    RunFolder(run.path, run.identity).write_uploads(uploads)
    table = pd.read_csv(run.path / "metrics.csv")
    table.loc[table["iteration"] == evaluation, column] *= factor
    table.to_csv(run.path / "metrics.csv", index=False)


def say(monkeypatch, capsys, *paths: Path) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sasg compare", *map(str, paths)])
    code = telling_user_errors(command.main)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_a_copy_is_equal_bit_for_bit(pair, monkeypatch, capsys):
    found = compare(*pair)
    assert found.identical and found.equal_decisions == 1.0 and found.loss_differs_by == 0.0
    assert (found.first_decision, found.first_evaluation, found.first_workers, found.columns) == (None, None, (), ())
    assert say(monkeypatch, capsys, *(run.path for run in pair))[0] == 0


def test_the_first_difference_is_found(pair, monkeypatch, capsys):
    change(pair[1], 37, 3, 20, "training_loss", 1.01)
    found = compare(*pair)
    assert not found.identical
    assert (found.first_decision, found.first_workers) == (37, (3,))
    assert found.equal_decisions == pytest.approx(1 - 1 / 600)
    assert (found.first_evaluation, found.columns, found.loss_differs_by) == (20, ("training_loss",), 0.0)
    code, out, _ = say(monkeypatch, capsys, *(run.path for run in pair))
    assert code == 1
    assert "first differ in iteration 37 (workers 3); 99.83% are equal" in out
    assert "first differ after iteration 20 (training_loss)" in out


def test_a_shorter_run_is_not_the_same(pair):
    uploads = read_uploads(pair[1].path / "uploads.npz")[:50]
    RunFolder(pair[1].path, pair[1].identity).write_uploads(uploads)
    table = pd.read_csv(pair[1].path / "metrics.csv")
    table[table["iteration"] <= 50].to_csv(pair[1].path / "metrics.csv", index=False)
    found = compare(*pair)
    assert not found.identical and not compare(*reversed(pair)).identical
    assert found.first_decision is None and found.first_evaluation is None


@pytest.mark.parametrize("more", ["evaluations", "columns"])
def test_more_of_anything_is_not_the_same(pair, more, monkeypatch, capsys):
    table = pd.read_csv(pair[0].path / "metrics.csv")
    less = table[table["iteration"] != 30] if more == "evaluations" else table.drop(columns="top5")
    less.to_csv(pair[1].path / "metrics.csv", index=False)
    assert not compare(*pair).identical and not compare(*reversed(pair)).identical
    code, out, _ = say(monkeypatch, capsys, *(run.path for run in pair))
    assert code == 1 and "equal as far as both go" in out


def test_means_are_compared_over_the_same_interval(pair, monkeypatch, capsys):
    """A training loss since another evaluation is another number, not another run."""
    table = pd.read_csv(pair[1].path / "metrics.csv")
    table.loc[table["iteration"] == 40, "training_loss"] *= 2  # as if it were the mean since iteration 20
    table[table["iteration"] != 30].to_csv(pair[1].path / "metrics.csv", index=False)
    found = compare(*pair)
    assert found.first_evaluation is None and not found.identical and found.loss_differs_by == 0.0
    table.loc[table["iteration"] == 40, "top1"] += 0.01
    table[table["iteration"] != 30].to_csv(pair[1].path / "metrics.csv", index=False)
    found = compare(*pair)
    assert (found.first_evaluation, found.columns) == (40, ("top1",))
    code, out, _ = say(monkeypatch, capsys, *(run.path for run in pair))
    assert code == 1 and "iterations:" not in out


def test_unequal_lengths_are_told_and_defaults_are_not(pair, monkeypatch, capsys):
    uploads = read_uploads(pair[1].path / "uploads.npz")[:50]
    RunFolder(pair[1].path, pair[1].identity).write_uploads(uploads)
    change(pair[1], 37, 3, 20, "training_loss", 1.01)
    identity = json.loads((pair[1].path / "config.json").read_text())
    del identity["task"]["warmup_epochs"]  # as before there was such a setting
    (pair[1].path / "config.json").write_text(json.dumps(identity))
    code, out, _ = say(monkeypatch, capsys, *(run.path for run in pair))
    assert code == 1 and out.startswith("iterations: 60 | 50; compared are those that both have\n")


def test_damaged_files_are_told(pair, monkeypatch, capsys):
    (pair[1].path / "uploads.npz").write_text("nothing")
    code, _, err = say(monkeypatch, capsys, *(run.path for run in pair))
    assert code == 2 and "uploads.npz: is damaged; move its folder away" in err and err.count("\n") == 1


def test_without_a_common_evaluation_there_is_nothing_to_say(pair, monkeypatch, capsys):
    table = pd.read_csv(pair[1].path / "metrics.csv")
    table["iteration"] += 1
    table.to_csv(pair[1].path / "metrics.csv", index=False)
    code, _, err = say(monkeypatch, capsys, *(run.path for run in pair))
    assert code == 2 and "no iteration was evaluated in both" in err


def test_what_cannot_be_compared(pair, made, monkeypatch, capsys):
    code, _, err = say(monkeypatch, capsys, pair[0].path, made[0])
    assert code == 2 and "must be the folder of one run" in err
    identity = json.loads(json.dumps(pair[1].identity))
    identity["task"]["name"] = "other"
    (pair[1].path / "config.json").write_text(json.dumps(identity))
    code, _, err = say(monkeypatch, capsys, *(run.path for run in pair))
    assert code == 2 and "other tasks" in err and err.count("\n") == 1


class TestDevices:
    @pytest.fixture
    def configs(self, made, tmp_path) -> list[Config]:
        """Each run also as if a GPU had made it: SASG's skips differ from iteration 41 on."""
        runs_dir = Path(shutil.copytree(made[0], tmp_path / "runs"))
        for entry in look_up([replace(config, runs_dir=str(runs_dir)) for config in made[1]]):
            identity = entry.run.identity | {"device": "cuda"}
            path = runs_dir / entry.config.run_name(identity)
            shutil.copytree(entry.run.path, path)
            (path / "config.json").write_text(json.dumps(identity))
            if entry.method == "sasg":
                change(Run(path, identity, {}), 41, 0, 10, "training_loss", 1.5)
        return [replace(config, runs_dir=str(runs_dir), device="auto") for config in made[1]]

    def test_pairs_are_compared(self, configs, tmp_path):
        write_part("report", DEVICES, look_up(configs), tmp_path)
        with open(tmp_path / "devices.csv") as file:
            rows = {row["method"]: row for row in csv.DictReader(file)}
        assert rows.keys() == {"sgd", "sasg"}
        assert rows["sasg"]["first_decisions"] == "41" and rows["sgd"]["first_decisions"] == "none"
        assert float(rows["sasg"]["loss_differs_by"]) == pytest.approx(0.5)
        assert float(rows["sgd"]["loss_differs_by"]) == 0.0
        assert float(rows["sgd"]["ratio_minimum"]) == 1.0 and rows["sgd"]["pairs"] == "1"
        assert "| 41 |" in " ".join((tmp_path / "devices.md").read_text().split())

    def test_without_pairs_nothing_is_written(self, made, tmp_path):
        assert "nothing to compare" in write_part("report", DEVICES, look_up(made[1]), tmp_path)
        assert not list(tmp_path.glob("devices*"))

    def test_runs_that_never_cross_have_no_rounds(self, configs, tmp_path):
        for path in Path(configs[0].runs_dir).glob("*-sgd-*/summary.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"crossing": None}))
        (row,) = [row.numbers for row in comparison.table(look_up(configs)).rows if row.numbers["method"] == "sgd"]
        assert (row["pairs"], row["crossing"], row["rounds_cpu"], row["ratio_minimum"]) == (1, 0, None, None)

    def test_a_folder_with_both_is_not_averaged_over_them(self, configs):
        series = all_series(entries_in([Path(configs[0].runs_dir)]))
        labels = {one.label: len(one.runs) for one in series}
        assert labels == {f"{m} (device={d})": 1 for m in ("SGD", "SASG") for d in ("cpu", "cuda")}
        assert [one.label for one in all_series(look_up(configs))] == ["SGD", "SASG"]


def test_a_task_without_a_baseline_says_so():
    config = compose_grid(["heterogeneous"], ["sasg"], [1])[0]
    (row,) = tables.any_runs([Entry(config, None)], "wan").cells
    assert row.count("no baseline") == 5 and row[-1] == "not run"


def test_everything_up_to_the_baseline_is_counted(made, tmp_path):
    entries = look_up([*made[1], *small_runs.grid(made[0], ["lasg"], [1])])
    write_part("report", {"kind": "links", "file": "links"}, entries, tmp_path)
    with open(tmp_path / "links.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    crossing = next(entry.run for entry in entries if entry.method == "sasg").summary["crossing"]
    row = rows["sasg"]
    assert float(row["uplink_bits"]) == pytest.approx(uplink_bits(crossing, "log2"), rel=1e-5)
    assert float(row["downlink_bits"]) == pytest.approx(crossing["downlink_unicast_bits_log2"], rel=1e-5)
    assert 0 < float(row["seconds_gigabit"]) < float(row["seconds_wan"])
    # Serial gigabit: uploads, one after another, and every worker's download take at least their bits' time.
    assert float(row["seconds_gigabit"]) > uplink_bits(crossing, "log2") / 1e9
    assert rows["lasg"]["uplink_bits"] == "" and rows["lasg"]["n"] == "0"
    assert "| LASG | not run |" in " ".join((tmp_path / "links.md").read_text().split())


def test_skips_are_told_by_source(tmp_path):
    config = replace(compose_grid(["heterogeneous"], ["sasg"], [1])[0], runs_dir=str(tmp_path / "runs"))
    uploads = np.ones((8, 10), dtype=bool)
    uploads[:4, 1::2] = False  # workers 1, 3, ... hold MNIST
    uploads[0, 2] = False
    identity = config.identity("d" * 64, "cpu")
    path = tmp_path / "runs" / config.run_name(identity)
    path.mkdir(parents=True)
    RunFolder(path, identity).write_uploads(uploads)
    (path / "metrics.csv").write_text("iteration\n8\n")
    final = {"top1": 0.8, "top1_cifar10": 0.7, "top1_mnist": 0.9, "top1_mnist_own_statistics": 0.95}
    summary = {"status": "finished", "final": final, "totals": {"rounds": 59}, "skipped_share": 21 / 80}
    summary |= {"device": "a processor", "versions": {"torch": "2.0"}, "data": "images"}
    missing = Entry(replace(config, algorithm={**config.algorithm, "name": "other"}), None)
    spec = {"kind": "sources", "file": "h", "sources": ["cifar10", "mnist"]}
    write_part("report", spec, [Entry(config, Run(path, identity, summary)), missing], tmp_path)
    with open(tmp_path / "h.csv") as file:
        row, other = csv.DictReader(file)
    assert float(row["skipped_cifar10"]) == pytest.approx(1 / 40) and float(row["skipped_mnist"]) == 0.5
    assert (row["top1_cifar10"], row["top1_mnist"], row["rounds"]) == ("0.7", "0.9", "59")
    assert (row["top1_mnist_own_statistics"], row["top1_cifar10_own_statistics"]) == ("0.95", "")
    assert other["n"] == "0" and other["top1"] == ""
