"""What an iteration costs as workers become many: the numbers that do not depend on the machine."""

import csv
import sys
from argparse import Namespace

import pytest

from experiments import scale
from sasg.errors import UserError


def run(monkeypatch, tmp_path, *words: str, task="digits") -> list[dict[str, str]]:
    monkeypatch.setattr(sys, "argv", ["scale.py", "--task", task, "--device", "cpu", "--out", str(tmp_path), *words])
    assert scale.main() == 0
    with (tmp_path / "digits-cpu.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["sgd", "sparse"])
def test_bits_and_state_by_workers(method):
    """The digits' model has 64 * 512 + 512 + 512 * 10 + 10 = 38,410 parameters; Sparse keeps one error for each."""
    options = Namespace(task="digits", device="cpu", data=None)
    for workers in (2, 4):
        config = scale._config(options, method, workers)
        assert config.task.step_size * workers == pytest.approx(10 * 0.02)
        found = scale.measure(config, 4)
        values = {"sgd": 38410, "sparse": 327 + 5 + 51 + 1}[method]  # 1 % of each tensor, at least one
        assert found["uplink_bits"] >= 32 * values * workers
        assert found["state_bytes_per_worker"] == {"sgd": 0, "sparse": 4 * 38410}[method]
        assert found["skipped_share"] == 0 and found["ms"] > 0
    if method == "sgd":
        assert found["uplink_bits"] == found["downlink_bits"] == 32 * 38410 * 4


def test_a_table_for_programs_and_readers(monkeypatch, tmp_path):
    (row,) = run(monkeypatch, tmp_path, "--methods", "sgd", "--workers", "3", "--iterations", "4")
    assert (row["task"], row["method"], row["workers"], row["device"]) == ("digits", "sgd", "3", "cpu")
    assert "| SGD    | 3 " in (tmp_path / "digits-cpu.md").read_text()


def test_bad_input(monkeypatch, tmp_path):
    for words, told in ((["--iterations", "1"], "--iterations"), (["--workers", "0"], "--workers")):
        with pytest.raises(UserError, match=told):
            run(monkeypatch, tmp_path, *words)
    with pytest.raises(UserError, match=r"its step size 1/L is not a number"):
        run(monkeypatch, tmp_path, task="lasso")
