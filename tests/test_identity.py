"""What a run is called: a hash of what it does, however that is spelled and wherever the code is."""

import csv
import dataclasses
import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
from suite_config import config

from sasg import builtin
from sasg.algorithms.parts.compressors import TopK
from sasg.config import Baseline, ClusterConfig, Config, Data, Task, from_dict
from sasg.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
OLD = sorted((ROOT / "tests" / "old_runs").glob("*.json"))


class TopKElsewhere(TopK):
    """As if its file had moved."""


def name(*overrides: str) -> str:
    made = config(*overrides)
    return made.run_name(made.identity("some data", "cpu"))


def test_a_default_that_is_spelled_changes_no_name():
    assert name("algorithm=sparse") == name("algorithm=sparse", "algorithm.compressor.scope=tensor")
    assert name("algorithm=sgd_momentum") == name("algorithm=sgd_momentum", "~algorithm.optimiser.nesterov")
    assert name("algorithm=sparse") != name("algorithm=sparse", "algorithm.compressor.scope=vector")


def test_a_number_is_a_number_however_it_is_written():
    assert name("algorithm.trigger.alpha=1") == name("algorithm.trigger.alpha=1.0")


def test_a_file_that_moves_changes_no_name(monkeypatch):
    before = name("algorithm=sasg")
    monkeypatch.setitem(builtin.BUILT_IN, "top_k", f"{__name__}.TopKElsewhere")
    assert name("algorithm=sasg") == before


def test_every_part_of_the_suite_is_where_it_is_said_to_be():
    for path in builtin.BUILT_IN.values():
        module, _, attribute = path.rpartition(".")
        assert attribute in vars(__import__(module, fromlist=[attribute])), path


def test_the_preset_is_a_label():
    """What it switches stands in the parts; its name alone makes no other run."""
    made = config("algorithm=sgd")
    renamed = dataclasses.replace(made, preset="another")
    assert renamed.run_name(renamed.identity("x", "cpu")) == made.run_name(made.identity("x", "cpu"))


@pytest.mark.parametrize("key", ["max_delay", "alpha", "xi"])
def test_what_does_nothing_cannot_be_written(key):
    values = config("algorithm=sasg").as_dict()
    values["task"][key] = 5
    with pytest.raises(UserError, match=rf"task\.{key}: unknown key"):
        from_dict(values)


def test_every_key_is_read():
    """By code outside the configuration itself, which checks it."""
    files = [path for path in (ROOT / "sasg").rglob("*.py") if path.name != "config.py"]
    code = "\n".join(path.read_text() for path in files)
    for kind in (Config, Task, Baseline, ClusterConfig, Data):
        for field in dataclasses.fields(kind):
            of = {"accuracy": "value", "target": "value", "budget": "budget_seconds"}.get(field.name, field.name)
            assert re.search(rf"\.{of}\b|\"{of}\"", code), f"{kind.__name__}.{field.name}"


# -- run folders of before ------------------------------------------------------------------------


@pytest.fixture
def carry_over():
    return runpy.run_path(str(ROOT / "scripts" / "carry_over.py"))["carry_over_all"]


def folder_of_before(runs_dir: Path, old: Path) -> Path:
    folder = runs_dir / old.stem
    folder.mkdir(parents=True)
    shutil.copy(old, folder / "config.yaml")
    (folder / "metrics.csv").write_text("iteration,top1\n100,0.5\n")
    (folder / "summary.json").write_text("{}\n")
    return folder


@pytest.mark.parametrize("old", OLD, ids=[path.stem for path in OLD])
def test_a_folder_of_before_gets_the_name_of_the_committed_run(tmp_path, carry_over, old):
    folder_of_before(tmp_path, old)
    assert carry_over(tmp_path) == []
    with (ROOT / "results" / "runs" / "renamed.csv").open(newline="") as file:
        expected = {row["old"]: row["new"] for row in csv.DictReader(file)}[old.stem]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([expected, "renamed.csv"])
    files = {path.name for path in (tmp_path / expected).iterdir()}
    assert files == {"config.json", "metrics.csv", "summary.json"}
    assert (tmp_path / expected / "metrics.csv").read_text() == "iteration,top1\n100,0.5\n"
    identity = json.loads((tmp_path / expected / "config.json").read_text())
    assert from_dict(identity).run_name(identity) == expected
    assert carry_over(tmp_path) == []  # again


def test_what_cannot_be_carried_over_stays(tmp_path, carry_over):
    unfinished = folder_of_before(tmp_path / "a", OLD[0])
    (unfinished / "checkpoint.pt").write_bytes(b"x")
    misnamed = folder_of_before(tmp_path / "b", OLD[0]).rename(tmp_path / "b" / "mnist-sasg-s1-00000000")
    damaged = folder_of_before(tmp_path / "c", OLD[0])
    (damaged / "config.yaml").write_text("{")
    for folder, why in ((unfinished, "not finished"), (misnamed, "does not fit"), (damaged, "damaged")):
        (told,) = carry_over(folder.parent)
        assert why in told and (folder / "config.yaml").exists()
