"""Runs that are packed in one file: found like folders, with the same tables and figures."""

import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from test_tables import finish

from experiments.study import compose_grid
from sasg.config import Config
from sasg.errors import UserError
from sasg.report.names import TRIGGER_COLUMNS
from sasg.report.packed import pack, unpacked
from sasg.report.runs import Run, entries_in, look_up
from sasg.report.writing import write_part

COMMITTED = Path(__file__).parent.parent / "results" / "runs"
PARTS = {
    "links": ("links.csv", "links.tex"),  # a table that needs metrics
    "accuracy": ("accuracy.png",),
    "time_to_baseline": ("time_to_baseline.png",),
}


@pytest.fixture
def configs(tmp_path) -> list[Config]:
    """Of two methods and two seeds; copies of their committed runs are there."""
    found = compose_grid(["mnist"], ["sgd", "sasg"], [1, 19], ["device=cpu"])
    for entry in look_up([replace(config, runs_dir=str(COMMITTED)) for config in found]):
        shutil.copytree(entry.run.path, tmp_path / "runs" / entry.run.path.name)
    return [replace(config, runs_dir=str(tmp_path / "runs")) for config in found]


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "runs" / "some.jsonl.xz"


def pack_and_remove(configs: list[Config], file: Path) -> list[Run]:
    runs = [entry.run for entry in look_up(configs)]
    pack(file, [run.content for run in runs])
    for run in runs:
        shutil.rmtree(run.path)
    return [entry.run for entry in look_up(configs)]


def test_packed_runs_give_the_same_tables_and_figures_as_their_folders(configs, file, tmp_path):
    for kind in PARTS:
        write_part(kind, {"kind": kind, "file": kind}, look_up(configs), tmp_path / "folders")
    assert {run.packed for run in pack_and_remove(configs, file)} == {file}
    for kind in PARTS:
        write_part(kind, {"kind": kind, "file": kind}, look_up(configs), tmp_path / "packed")
    for name in (name for names in PARTS.values() for name in names):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "folders" / name).read_bytes(), name
    assert "* SASG: [seeds 1, 19](../runs/some.jsonl.xz)" in (tmp_path / "packed/links.md").read_text()


def test_metrics_are_those_of_the_folder_but_for_what_triggers_compared(configs, file):
    before = {entry.run.path.name: entry.run.metrics for entry in look_up(configs)}
    for run in pack_and_remove(configs, file):
        expected = before[run.path.name].drop(columns=list(TRIGGER_COLUMNS))
        pd.testing.assert_frame_equal(run.metrics, expected, check_exact=True)
        assert run.has_rows and run.has_curve


def test_runs_are_added_and_equal_content_gives_equal_bytes(configs, file):
    content = [entry.run.content for entry in look_up(configs)]
    assert pack(file, content[:2]) == 2
    assert pack(file, content[1:]) == len(content) == 4
    first = file.read_bytes()
    pack(file, reversed(content))
    assert file.read_bytes() == first
    assert set(unpacked(file)) == {entry.run.path.name for entry in look_up(configs)}
    again = pack_and_remove(configs, file)
    pack(file, [run.content for run in again])  # from packed ones
    assert file.read_bytes() == first


def test_a_file_of_packed_runs_is_given_like_a_folder(configs, file):
    names = [run.path.name for run in pack_and_remove(configs, file)]
    assert sorted(entry.run.path.name for entry in entries_in([file])) == sorted(names)
    with pytest.raises(UserError, match="nor a file of packed ones"):
        entries_in([file.parent])


def test_older_files_without_metrics_are_read_and_say_what_they_lack(configs, file, tmp_path):
    pack_and_remove(configs, file)
    rows = [json.loads(line) for line in lzma.decompress(file.read_bytes()).splitlines()]
    older = "".join(json.dumps({key: row[key] for key in ("identity", "summary")}) + "\n" for row in rows)
    file.write_bytes(lzma.compress(older.encode()))
    write_part("report", {"kind": "crossing", "file": "crossing"}, look_up(configs), tmp_path)
    for kind in PARTS:
        with pytest.raises(UserError, match=r"some.jsonl.xz: has no metrics of mnist-\w+-s1-\w+, which .*; make"):
            write_part("report", {"kind": kind, "file": kind}, look_up(configs), tmp_path)


def test_parts_that_need_decisions_say_that_they_are_not_packed(configs, file, tmp_path):
    pack_and_remove(configs, file)
    for kind, lacking in (("uploads", "uploads"), ("thresholds", "thresholds")):
        with pytest.raises(UserError, match=f"some.jsonl.xz: has no {lacking} of mnist-sasg-s1-\\w+, which"):
            write_part("report", {"kind": kind, "file": kind, "methods": ["sasg"]}, look_up(configs), tmp_path)


def test_packed_runs_of_other_data_or_another_device_are_not_taken(configs, file):
    pack_and_remove(configs, file)
    assert look_up(configs[:1])[0].run is not None
    assert look_up([replace(configs[0], device="cuda")])[0].run is None
    assert look_up([replace(configs[0], data_sha256="e" * 64)])[0].run is None


def test_a_run_that_came_to_no_evaluation_is_packed(configs, file):
    config = replace(configs[0], seed=3)
    finish(config, None, status="diverged")
    (entry,) = look_up([config])
    (entry.run.path / "metrics.csv").unlink()
    summary = json.loads((entry.run.path / "summary.json").read_text()) | {"num_rows": 0}
    (entry.run.path / "summary.json").write_text(json.dumps(summary))
    (run,) = pack_and_remove([config], file)
    assert run.words == "diverged at iteration 100" and not run.has_rows and not run.has_curve


def test_a_damaged_file_is_told(configs, file, tmp_path):
    file.write_bytes(b"no xz")
    with pytest.raises(UserError, match=r"some.jsonl.xz: no packed runs, or damaged"):
        look_up(configs[:1])
    with pytest.raises(UserError, match=r"packed runs are a file NAME.jsonl.xz"):
        pack(tmp_path / "runs.zip", [])
