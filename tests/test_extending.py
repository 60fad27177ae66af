"""What docs/extending.md shows, done in a folder outside of the suite: the code and the commands are the document's."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text()
FILES = {path: code for _, path, code in re.findall(r"```(python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)}
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A user's folder with all files of the document."""
    folder = tmp_path_factory.mktemp("mine")
    for path, code in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(code)
    return folder


def train(folder: Path, command: str) -> list[Path]:
    """The runs' folders of a command of the document, which must succeed."""
    words = shlex.split(command)
    assert words[:2] == ["python", "path/to/sasg/experiments/train.py"]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SASG_CONF")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "train.py"), *words[2:], "device=cpu"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [folder / line for line in done.stdout.split()]


def last_row(run: Path) -> dict[str, float]:
    with (run / "metrics.csv").open() as file:
        return {key: float(value or "nan") for key, value in list(csv.DictReader(file))[-1].items()}


def test_the_document_has_all_of_it():
    assert len(COMMANDS) == 4
    assert {path.rpartition(".")[0] for path in FILES if path.endswith(".yaml")} == {
        "conf/algorithm/random_block",
        "conf/algorithm/my_ef21",
        "conf/dataset/bars",
        "conf/model/convnet",
    }


def test_one_file_and_one_yaml_are_enough(tmp_path):
    for path in ("random_block.py", "conf/algorithm/random_block.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(FILES[path])
    (run,) = train(tmp_path, COMMANDS[0])
    assert run.name.startswith("digits-random_block-s1-")
    row = last_row(run)
    num_parameters = json.loads((run / "summary.json").read_text())["num_parameters"]
    kept = num_parameters // 100
    assert (row["iteration"], row["rounds"]) == (30, 300)
    assert row["value_bits"] == row["index_bits_int32"] == 300 * 32 * kept
    assert row["index_bits_bitmask"] == 300 * num_parameters


def test_methods_beside_one_of_the_suites(folder):
    runs = train(folder, COMMANDS[1])
    assert [run.name.split("-")[1] for run in runs] == ["my_ef21", "random_block", "sparse"]
    assert all(last_row(run)["rounds"] == 700 for run in runs)  # 5 epochs of 14 iterations, 10 workers
    accuracies = [last_row(run)["top1"] for run in runs]
    assert accuracies[0] > 0.6 and accuracies[1] > 0.2 and accuracies[2] > 0.6


def test_a_data_set(folder):
    (run,) = train(folder, COMMANDS[2])
    assert run.name.startswith("bars-sasg-s1-")
    assert json.loads((run / "summary.json").read_text())["data"] == "bars with noise 60"
    assert last_row(run)["top1"] > 0.8


def test_a_model(folder):
    (run,) = train(folder, COMMANDS[3])
    assert json.loads((run / "summary.json").read_text())["num_parameters"] == 9 * 4 + 8 + 4 * 8 * 9 + 16 + 32 * 2 + 2
    assert last_row(run)["iteration"] == 20
